"""What container tests share: one Docker engine and the two images, decided once a session.

Without an engine (or without the images) such tests skip and say why; with KENNEL_REQUIRE_DOCKER=1 they fail instead.
KENNEL_TRAIN_IMAGE and KENNEL_SERVE_IMAGE choose other images, a user's own too.
"""

import ctypes
import os
import sys

import pytest

from tests.support.requirement import docker_client, unavailable


class _Stack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_SS_DISABLE = 2


@pytest.fixture(autouse=True)
def signals_on_the_usual_stack():
    """OpenVINO 2026.4's CPU plugin gives the thread that compiles a model an alternate signal stack (sigaltstack(2)). When
    the garbage collector destroys the plugin in another thread, as it may in an xdist worker, the memory goes and the setting
    stays: the next signal that Python handles, in this process or one forked from it, is a segmentation fault.
    """
    if "openvino" in sys.modules:
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, _SS_DISABLE, 0)), None) == 0


@pytest.fixture(scope="session")
def engine():
    """A client of the Docker engine."""
    client = docker_client()
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
