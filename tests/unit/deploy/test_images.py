"""How `images` calls docker build."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from deploy import images


class Engine:
    def __init__(self, *status) -> None:
        self._status = [list(pair) for pair in status]

    def info(self):
        return {"DriverStatus": self._status}


def test_an_engine_that_keeps_images_in_containerd_is_told_to_write_them_as_docker_does(tmp_path, monkeypatch):
    """OCI's manifests, its default, are none that SageMaker's CreateModel takes. Others do not know the flag."""
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for engine in (Engine(("driver-type", "io.containerd.snapshotter.v1")), Engine(("Backing Filesystem", "extfs"))):
        images.build("train", "host/train:v1", "v1", [], output=images.output(engine), root=tmp_path)
    new, old = (tmp_path / "calls").read_text().splitlines()
    assert " --tag host/train:v1 --output type=image,oci-mediatypes=false --build-arg " in new
    assert "--output" not in old


def test_a_build_makes_a_plain_image_without_an_attestation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With one, newer engines push an index, which SageMaker does not take."""
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\nenv >{tmp_path}/environment\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    images.build("train", "host/kennel/dev/train:v1", "v1", [], root=tmp_path)
    environment = (tmp_path / "environment").read_text().splitlines()
    assert {"DOCKER_BUILDKIT=1", "BUILDX_NO_DEFAULT_ATTESTATIONS=1"} <= set(environment)


def test_build_arguments_reach_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/call\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    images.build("train", "host/train:v1", "v1", ["COMPILE=1", "PRETRAINED=none"], root=tmp_path)
    assert " --build-arg VERSION=v1 --build-arg COMPILE=1 --build-arg PRETRAINED=none " in (tmp_path / "call").read_text()


def test_people_can_copy_the_whole_digest():
    """At a terminal of 80 characters, too."""
    reference = f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/kennel/dev/train@sha256:{'abcd' * 16}"
    pushed = images.Pushed(image="train", reference=reference, tag="v1", cuda="12.8", pushed=True)
    screen = Console(file=io.StringIO(), width=80)
    screen.print(images._table([pushed]))
    rows = [line.split("│") for line in screen.file.getvalue().splitlines() if line.startswith("│")]
    assert "".join(row[2].strip() for row in rows) == reference
