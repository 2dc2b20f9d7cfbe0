"""What a machine lacks: a skip with its reason, a failure where container tests are required (KENNEL_REQUIRE_DOCKER=1)."""

import os
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    if os.environ.get("KENNEL_REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason} (KENNEL_REQUIRE_DOCKER=1)", pytrace=False)
    pytest.skip(reason)
