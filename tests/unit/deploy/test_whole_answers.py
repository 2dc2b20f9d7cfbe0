"""Answers that end early, over real HTTP: the next attempt is believed, a short one never."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import IncompleteReadError

from deploy.errors import DeployError, explained
from deploy.whole_answers import insist

_BODY = json.dumps({"Functions": [{"FunctionName": "kennel"}]}).encode()


class _Cut(BaseHTTPRequestHandler):
    """The first `server.cut` answers have half a body; all of them say how long the whole is."""

    def _answer(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(_BODY)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(_BODY if self.server.asked > self.server.cut else _BODY[: len(_BODY) // 2])

    do_GET = do_HEAD = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Cut) as server:
        server.asked, server.cut = 0, 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _client(server: ThreadingHTTPServer, service: str) -> Any:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    client = boto3.Session("test", "test", region_name="eu-west-1").client(service, endpoint_url=url, config=once)
    insist(client)
    return client


def test_an_answer_cut_short_is_asked_for_again(server):
    server.cut = 2
    assert _client(server, "lambda").list_functions()["Functions"] == [{"FunctionName": "kennel"}]
    assert server.asked == 3


def test_answers_that_stay_short_are_an_error_that_says_so(server):
    server.cut = 100
    with pytest.raises(IncompleteReadError, match=f"{len(_BODY) // 2} read, but total bytes expected is {len(_BODY)}"):
        _client(server, "lambda").list_functions()
    with pytest.raises(DeployError, match="cut short") as raised, explained("functions"):
        _client(server, "lambda").list_functions()
    assert "run the same command again" in raised.value.hint


def test_what_may_have_changed_something_is_not_done_twice(server):
    server.cut = 1
    with pytest.raises(IncompleteReadError):
        _client(server, "lambda").publish_version(FunctionName="kennel")
    assert server.asked == 1


def test_an_answer_to_head_has_no_body_and_lacks_nothing(server):
    assert _client(server, "s3").head_object(Bucket="photos", Key="a.jpg")["ContentLength"] == len(_BODY)
    assert server.asked == 1
