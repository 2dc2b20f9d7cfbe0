"""Which base the images stand on, with a real engine and a real registry."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import images
from scripts.machine import Docker, find_docker, output
from tests.support.registry import registry
from tests.support.requirement import docker_client


@pytest.fixture
def docker() -> Docker:
    docker_client().close()
    return find_docker()


@pytest.fixture
def public(docker: Docker, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A tag in a registry, and the digest it has there; the engine has neither."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "file").write_text(uuid.uuid4().hex)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    with registry(tmp_path) as host:
        tag = f"{host}/python:3.11-slim-bookworm"
        for command in (["build", "-q", "-t", tag, context], ["push", "-q", tag]):
            subprocess.run([docker.cli, *command], check=True, capture_output=True)
        digest = images.digest(docker, tag)
        subprocess.run([docker.cli, "rmi", tag], check=True, capture_output=True)
        try:
            yield tag, digest
        finally:
            left = (output([docker.cli, "images", "-q", "--no-trunc", f"{host}/python"]) or "").split()
            subprocess.run([docker.cli, "rmi", "-f", *left], check=bool(left), capture_output=True)


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BASE_IMAGE", raising=False)
    monkeypatch.setattr(images, "OWN_BASE", "kennel-base:nowhere")


def test_the_public_base_is_pulled_by_its_digest_and_then_is_here(docker, public, monkeypatch):
    tag, digest = public
    monkeypatch.setattr(images, "PUBLIC_BASE", f"{tag}@{digest}")
    assert images.base_image(docker) == f"{tag}@{digest}"
    assert images.pinned(docker, f"{tag}@{digest}") == f"{tag.rpartition(':')[0]}@{digest}"
    monkeypatch.setattr(images, "PULL_SECONDS", 0)  # no pull can succeed now: it is found
    assert images.base_image(docker) == f"{tag}@{digest}"


def test_a_digest_that_the_registry_has_dropped_leaves_the_tag_by_the_digest_it_has_now(docker, public, monkeypatch):
    tag, digest = public
    monkeypatch.setattr(images, "PUBLIC_BASE", f"{tag}@sha256:{'0' * 64}")
    assert images.base_image(docker) == tag
    assert images.pinned(docker, tag) == f"{tag.rpartition(':')[0]}@{digest}"


def test_without_a_registry_one_is_made_here(docker, monkeypatch, tmp_path):
    monkeypatch.setattr(images, "PUBLIC_BASE", f"127.0.0.1:9/python:3.11-slim-bookworm@sha256:{'0' * 64}")
    script = tmp_path / "scripts" / "make_base.sh"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\ntest "$1" = kennel-base:nowhere\n')
    script.chmod(0o755)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    assert images.base_image(docker) == "kennel-base:nowhere"
