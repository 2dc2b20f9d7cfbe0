import pytest

from containers.serve.shares import Shares


def test_one_owner_gets_half_and_others_always_find_some():
    shares = Shares(8)
    assert [shares.take(1, "a") for _ in range(5)] == [True] * 4 + [False]
    assert [shares.take(1, "b") for _ in range(3)] == [True] * 2 + [False]
    assert [shares.take(1, owner) for owner in "cdc"] == [True, True, False]
    for _ in range(4):
        shares.give_back(1, "a")
    assert [shares.take(1, owner) for owner in "ba"] == [True, True]


@pytest.mark.parametrize("owner", ["", "a"])
def test_no_more_is_given_than_there_is(owner):
    shares = Shares(10)
    assert not shares.take(11, owner)
    assert shares.take(10, owner)
    assert not shares.take(1, owner)
    shares.give_back(10, owner)
    assert shares.take(10, owner)


def test_without_an_owner_s_name_there_are_no_parts():
    shares = Shares(4)
    assert [shares.take(1) for _ in range(5)] == [True] * 4 + [False]
