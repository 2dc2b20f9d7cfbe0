"""What a machine lacks is a skip, and a failure where container tests are required."""

import sys

import pytest

from tests.support import requirement


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_without_the_docker_package(required, outcome, monkeypatch) -> None:
    monkeypatch.setenv("KENNEL_REQUIRE_DOCKER", required)
    monkeypatch.setitem(sys.modules, "docker", None)  # importing it is an ImportError
    with pytest.raises(outcome, match="docker package is not installed"):
        requirement.docker_client()
