"""What container tests share: one Docker engine and the two images, decided once a session.

Without an engine (or without the images) such tests skip and say why; with KENNEL_REQUIRE_DOCKER=1 they fail instead.
KENNEL_TRAIN_IMAGE and KENNEL_SERVE_IMAGE choose other images, a user's own too.
"""

import os

import pytest

from tests.support.requirement import unavailable


@pytest.fixture(scope="session")
def engine():
    """A client of the Docker engine."""
    docker = pytest.importorskip("docker", reason="the docker package is not installed")
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except docker.errors.DockerException as error:
        unavailable(f"no Docker engine answers: {str(error)[:120]}")
    yield client
    client.close()


def _image(engine, variable: str, default: str) -> str:
    import docker

    name = os.environ.get(variable, default)
    try:
        engine.images.get(name)
    except docker.errors.ImageNotFound:
        unavailable(f"image {name} is not built: make images, or set {variable}")
    return name


@pytest.fixture(scope="session")
def train_image(engine) -> str:
    return _image(engine, "KENNEL_TRAIN_IMAGE", "kennel-train:dev")


@pytest.fixture(scope="session")
def serve_image(engine) -> str:
    return _image(engine, "KENNEL_SERVE_IMAGE", "kennel-serve:dev")
