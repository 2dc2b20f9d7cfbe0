"""What a machine lacks: a skip with its reason, a failure where container tests are required (KENNEL_REQUIRE_DOCKER=1)."""

import gc
import os
import warnings
from typing import Any, NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    if os.environ.get("KENNEL_REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason} (KENNEL_REQUIRE_DOCKER=1)", pytrace=False)
    pytest.skip(reason)


def docker_client() -> Any:
    """A client of the Docker engine; `unavailable` where none answers."""
    try:
        import docker
    except ImportError:
        unavailable("the docker package is not installed")
    client, why = None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves the socket open that could not connect
        try:
            client = docker.from_env(timeout=120)
            client.ping()
        except (docker.errors.DockerException, OSError) as error:
            why = str(error)[:120] or type(error).__name__
        gc.collect()
    return unavailable(f"no Docker engine answers: {why}") if why else client
