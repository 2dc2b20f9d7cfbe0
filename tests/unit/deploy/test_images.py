"""How `images` calls docker build."""

from pathlib import Path

import pytest

from deploy import images


def test_a_build_makes_a_plain_image_without_an_attestation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With one, newer engines push an index, which SageMaker does not take."""
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\nenv >{tmp_path}/environment\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    images.build("train", "host/kennel/dev/train:v1", "v1", [], root=tmp_path)
    environment = (tmp_path / "environment").read_text().splitlines()
    assert {"DOCKER_BUILDKIT=1", "BUILDX_NO_DEFAULT_ATTESTATIONS=1"} <= set(environment)
