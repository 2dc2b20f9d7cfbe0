"""What a caller sees of the limit is in tests/contract/test_serving_bodies.py."""

import pytest

from containers.serve.body_memory import BodyMemory
from containers.serve.config import ServeConfig
from containers.serve.errors import Overloaded


def test_shares_are_refused_over_the_limit_and_given_back_whatever_happened():
    memory = BodyMemory(10)
    with memory.share() as first, memory.share() as second:
        first(4)
        first(2)
        with pytest.raises(Overloaded):
            second(5)
        second(4)
        with pytest.raises(Overloaded):
            first(1)
    for _ in range(2):
        with pytest.raises(Overloaded), memory.share() as reserve:  # noqa: PT012
            reserve(10)
            reserve(1)


def test_a_model_s_bodies_leave_room_for_another_s():
    memory = BodyMemory(10)
    with memory.share("slow") as slow, memory.share("slow") as more, memory.share("idle") as idle:
        slow(5)
        with pytest.raises(Overloaded):
            more(1)
        idle(4)


@pytest.mark.parametrize(("megabytes", "wanted"), [(25, 512), (100, 512), (1000, 2000), (0.5, 512)])
def test_there_is_always_room_for_two_of_the_largest(megabytes: float, wanted: int):
    assert ServeConfig(max_body_mb=megabytes).body_memory_bytes == wanted << 20
