"""The load generator against a small real server on loopback, and what is concluded from measured steps."""

import argparse
import json
import math
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from containers.core.errors import ConfigError
from deploy import load_generator as load
from deploy import loadtest
from deploy.errors import DeployError
from tests.support import aws as fake
from tests.support.sagemaker_runtime import SageMakerRuntime


class Server:
    """Two at a time, each for `seconds`; more than `waiting` waiting are refused."""

    def __init__(self, seconds: float = 0.01, waiting: int = 1000, status: int = 200) -> None:
        room, queue = threading.Semaphore(2), threading.BoundedSemaphore(waiting)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(404)  # it has no /ping

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if not queue.acquire(blocking=False):
                    return self._answer(503)
                with room:
                    time.sleep(seconds)
                queue.release()
                return self._answer(status)

            def _answer(self, code: int) -> None:
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/invocations"

    def sender(self) -> load.HttpSender:
        return load.HttpSender(self.url, b"photo", "image/jpeg")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def step(kind="closed", load_=1.0, throughput=10.0, p95=50.0, bad=0) -> load.Step:
    times = {"p50_ms": p95 / 2, "p95_ms": p95, "p99_ms": p95 * 2}
    return load.Step(kind=kind, load=load_, sent=1000, refused=bad, failed=0, throughput=throughput, **times)


def test_closed_loop_counts_what_came_back():
    with Server(seconds=0.1) as server:
        one = load.closed(server.sender, 1, 2.0)
        four = load.closed(server.sender, 4, 2.0)
    assert one.sent > 0
    assert (one.refused, one.failed) == (0, 0)
    assert one.p50_ms >= 100
    assert four.throughput > one.throughput  # there are two places


def test_refusals_and_failures_are_told_apart():
    with Server(seconds=0.1, waiting=2) as server:
        crowded = load.closed(server.sender, 6, 0.5)
    assert crowded.refused > 0
    assert crowded.failed == 0
    with Server(status=500) as broken:
        assert load.closed(broken.sender, 1, 0.1).bad_share == 1.0
    gone = load.HttpSender("http://127.0.0.1:9/invocations", b"", "image/jpeg", timeout_seconds=1)
    assert gone.send() == "failed"


def test_open_loop_latency_counts_from_the_due_moment(monkeypatch):
    """One client and four times what it can carry: each answer takes 50 ms, and the last request was due seconds before."""
    monkeypatch.setattr(load, "_MOST_CLIENTS", 1)
    with Server(seconds=0.05) as server:
        step = load.open_loop(server.sender, 80.0, 0.5)
    assert step.sent > 20
    assert step.p95_ms > 700


def test_the_ramp_stops_at_the_knee_and_then_sends_at_random_moments():
    with Server(seconds=0.02) as server:
        steps = list(loadtest.ramp(server.sender, 60_000.0, 0.3))
    clients = [step.load for step in steps if step.kind == "closed"]
    assert clients == [2**power for power in range(len(clients))]
    assert 2 <= len(clients) < 9
    assert len([step for step in steps if step.kind == "open"]) == 5


def test_one_busy_moment_does_not_end_the_ramp(monkeypatch):
    measured = iter([1, 100, 60, 150, 152, 151, 999])  # the first is the warm-up
    monkeypatch.setattr(load, "closed", lambda _, clients, __: step(load_=clients, throughput=next(measured)))
    monkeypatch.setattr(load, "open_loop", lambda _, rate, __: step("open", rate))
    steps = list(loadtest.ramp(None, 500, 1))
    assert [one.load for one in steps if one.kind == "closed"] == [1, 2, 4, 8, 16]
    assert max(one.load for one in steps if one.kind == "open") == 152


def test_the_proposal_names_the_settings():
    screen = fake.Screen()
    screen.print(loadtest._table(loadtest.propose([step()], 500, 1, None, None, "here"), 500))
    assert '[scaling] profile = "seed"' in screen.text


def test_the_proposal_follows_from_the_steps():
    steps = [
        step(load_=1, throughput=50),
        step(load_=2, throughput=95),
        step(load_=4, throughput=100),
        step(load_=8, throughput=101),
        step("open", 50, throughput=50),
        step("open", 70, throughput=71),
        step("open", 80, throughput=80, p95=900),
    ]
    proposal = loadtest.propose(steps, 500, 1, usual_rps=30, peak_rps=200, where="here")
    assert proposal.capacity_rps == 101
    assert proposal.knee_clients == 4  # 8 clients bring next to nothing more
    assert proposal.sustained_rps == 70
    assert proposal.invocations_target == 70 * 0.5 * 60
    assert proposal.concurrency_target == 2.8
    assert (proposal.minimum, proposal.maximum) == (1, 5)


def test_several_instances_are_counted_out():
    steps = [step(load_=8, throughput=200), step("open", 160, throughput=160)]
    proposal = loadtest.propose(steps, 500, 2, usual_rps=None, peak_rps=None, where="here")
    assert (proposal.capacity_rps, proposal.sustained_rps, proposal.minimum, proposal.maximum) == (100, 80, None, None)


def test_what_was_offered_and_not_answered_is_not_sustained():
    steps = [step(load_=8, throughput=40), step("open", 20, throughput=20), step("open", 32.1, throughput=24.9)]
    assert loadtest.propose(steps, 500, 1, None, None, "here").sustained_rps == 24.9


@pytest.mark.parametrize("bad", [step(p95=900), step(bad=20)])
def test_a_server_that_never_keeps_the_latency_or_refuses_gets_no_proposal(bad):
    with pytest.raises(DeployError, match="no load keeps"):
        loadtest.propose([bad], 500, 1, None, None, "here")


def test_a_server_that_gives_no_good_answer_is_not_called_slow():
    with pytest.raises(
        DeployError, match=r"no request got a good answer: 1000 refused, 0 failed\n  try: look at the server's log"
    ):
        loadtest.propose([step(p95=math.inf, bad=1000)], 500, 1, None, None, "here")


def command(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    loadtest.add_arguments(parser)
    return parser.parse_args(list(flags))


def test_the_command(tmp_path, capsys):
    (tmp_path / "dog.jpg").write_bytes(b"photo")
    context = fake.context(as_json=True)
    with Server() as server:
        flags = ("--photo", str(tmp_path / "dog.jpg"), "--url", server.url, "--seconds", "0.2", "--p95-ms", "5000")
        loadtest.run(command(*flags, "--peak-rps", "1000"), context)
    found = json.loads(capsys.readouterr().out)
    assert found["proposal"]["maximum"] >= 1
    assert "answers/s" in context.console.text


def test_a_photo_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="--photo"):
        loadtest.run(command("--photo", str(tmp_path / "none.jpg"), "--url", "http://127.0.0.1:9"), fake.context())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--seconds=0", "--seconds 0: a number above 0"),
        ("--seconds=-1", "--seconds -1: "),
        ("--seconds=nan", "--seconds nan: "),
        ("--seconds=inf", "--seconds inf: "),
        ("--p95-ms=0", "--p95-ms 0: "),
        ("--instances=0", "--instances 0: "),
        ("--usual-rps=-5", "--usual-rps -5: "),
        ("--peak-rps=0", "--peak-rps 0: "),
        ("--usual-rps=50 --peak-rps=5", "--usual-rps 50 is above --peak-rps 5: "),
        ("--url=127.0.0.1:9/invocations", "--url '127.0.0.1:9/invocations': it must begin with http:// or https://"),
        ("--url=localhost:9", "--url 'localhost:9': it must begin"),
        ("--url=", "--url '': it must begin"),  # an unset variable is no wish to pay for the endpoint
    ],
)
def test_flags_that_make_no_test(tmp_path, flags, said):
    (tmp_path / "dog.jpg").write_bytes(b"photo")
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        loadtest.run(command("--photo", str(tmp_path / "dog.jpg"), *flags.split()), fake.context(dry_run=True))


def test_an_endpoint_is_asked_once_per_request(monkeypatch):
    """boto3's own retries would hide refusals behind long latencies."""
    with Server() as server, SageMakerRuntime({"dogs": server.url.removesuffix("/invocations")}) as runtime:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", runtime.url)
        client = loadtest.endpoint_client(fake.context(session=boto3.Session()))
        sender = loadtest.EndpointSender(client, "dogs", b"photo", "image/jpeg")
        assert sender.send() == "ok"
        runtime.failures, before = [(400, "ThrottlingException")] * 5, runtime.calls
        assert sender.send() == "refused"
        assert runtime.calls == before + 1
