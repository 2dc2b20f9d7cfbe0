"""What comes of it with real clients is in tests/contract/test_serving_readers.py."""

from collections.abc import Iterable

import pytest
from flask import Flask
from werkzeug.test import create_environ

from containers.serve import places
from containers.serve.errors import Overloaded
from containers.serve.places import Places


def asked(room: Places, model: str = "", *, breaks: bool = False) -> Iterable[bytes]:
    """The answer to a request that takes a place, not closed yet."""
    app = Flask(__name__)
    app.testing = True  # errors reach the server

    @app.get("/")
    def answer() -> str:
        room.take(model)
        if breaks:
            raise ZeroDivisionError
        return "large"

    return places.given_back(app.wsgi_app)(create_environ("/"), lambda *_: lambda _: None)


def test_a_place_is_held_until_the_answer_is_closed() -> None:
    room = Places(1)
    slow = asked(room)
    with pytest.raises(Overloaded, match="every request thread is taken"):
        asked(room)
    slow.close()  # type: ignore[attr-defined]
    assert b"".join(asked(room)) == b"large"


def test_a_request_that_breaks_gives_its_place_back() -> None:
    room = Places(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            asked(room, breaks=True)


def test_one_model_leaves_places_to_others() -> None:
    room = Places(4)
    held = [asked(room, "a"), asked(room, "a")]
    with pytest.raises(Overloaded, match="no place for one more of this model"):
        asked(room, "a")
    assert b"".join(asked(room, "b")) == b"large"
    assert len(held) == 2
