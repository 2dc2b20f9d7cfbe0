"""The inference contract: the image is run as `docker run IMAGE serve`, with a model in /opt/ml/model."""

import concurrent.futures
import contextlib
import http.client
import json
import socket
import statistics
import time
from urllib.parse import urlsplit

from tests.conformance import serving_starts
from tests.conformance.report import API, GUIDE, NotTried, Report, require
from tests.conformance.server import INFERENCE, INVOKE_SECONDS, STOP_SECONDS, Serving, Up, ask

BATCH = GUIDE + "your-algorithms-batch-code.html"
WATCH = GUIDE + "monitoring-cloudwatch.html"
FAQ = GUIDE + "hosting-faqs.html"
INVOKE = API + "API_runtime_InvokeEndpoint.html"
METRICS = API + "API_MetricsConfig.html"
PING_SECONDS, ACCEPT_SECONDS = 2.0, 0.25
__all__ = ["INFERENCE", "STOP_SECONDS", "Serving", "ask", "check"]


def check(target: Serving, report: Report) -> None:
    with contextlib.ExitStack() as stack:
        server = Up()
        with report.rule("`serve` answers GET /ping on port 8080 with 200 within the start-up window", INFERENCE):
            box, url = stack.enter_context(target.started())
            target.wait(box, url)
            server.started = box, url
        _requests(target, server, report)
        _bad_requests(target, server, report)
        _optional_routes(server, report)
        _stop(target, server, report)
    serving_starts.check(target, server, report)


def _requests(target: Serving, server: Up, report: Report) -> None:
    with report.rule("the first request after the first 200 from /ping is answered within 60 s", INFERENCE):
        first = target.invoke(server.url)
        server.answers = 200 <= first.status < 300
        require(200 <= first.status < 300, f"{first.status}: {first.body[:200]!r}")
        require(first.seconds < INVOKE_SECONDS, f"{first.seconds:.1f} s")
    with report.rule("connections are accepted within 250 ms", INFERENCE):
        host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
        begun = time.monotonic()
        socket.create_connection((host, port), timeout=5).close()
        require(time.monotonic() - begun < ACCEPT_SECONDS, f"{time.monotonic() - begun:.3f} s")
    with (
        report.rule("/ping answers within 2 s while 16 requests are in the container", INFERENCE),
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):
        url = server.url
        work = [pool.submit(target.invoke, url) for _ in range(64)]
        pings = []
        while not all(item.done() for item in work):
            pings.append(ask(url, "GET", "/ping"))
            time.sleep(0.05)
        pings.append(ask(url, "GET", "/ping"))
        slowest, wrong = max(p.seconds for p in pings), [p.status for p in pings if p.status != 200]
        require(slowest < PING_SECONDS and not wrong, f"slowest of {len(pings)}: {slowest:.2f} s; not 200: {wrong[:5]}")
    with report.rule("headers that SageMaker adds are ignored", INFERENCE):
        server.need_answers()
        odd = target.invoke(server.url, X_Amzn_SageMaker_Custom_Attributes="a=b;c", X_Amzn_Something_New="1", Accept="*/*")
        require(200 <= odd.status < 300, f"{odd.status}: {odd.body[:200]!r}")


def _bad_requests(target: Serving, server: Up, report: Report) -> None:
    noise = bytes(range(256)) * 8
    with report.advice("a bad request is a 4xx: 5xx sets off the alarms on Invocation5XXErrors", WATCH):
        answers = {name: target.invoke(server.url, body) for name, body in (("empty", b""), ("noise", noise))}
        answers["unknown type"] = target.invoke(server.url, Content_Type="application/x-unknown-to-all")
        server_side = {name: answer.status for name, answer in answers.items() if answer.status >= 500}
        require(not server_side, f"answered with {server_side}")
    with report.advice("an error's message is whole within 2048 characters (ModelError's OriginalMessage)", INVOKE):
        error = target.invoke(server.url, noise)
        if error.status < 400:
            raise NotTried(f"noise is no error to it: it was answered with {error.status}")
        require(len(error.body) <= 2048, f"{len(error.body)} bytes")
        require(b"Traceback" not in error.body, "a traceback is shown to the caller")
    with report.advice("a body of 25 MB, the limit of real-time requests, is not too large", FAQ):
        big = target.invoke(server.url, b"\x00" * (25 * 1024 * 1024))
        require(big.status != 413, f"{big.status}: {big.body[:200]!r}")
    with report.rule("it still answers after all that", INFERENCE):
        server.need_answers()
        times = [target.invoke(server.url) for _ in range(5)]
        require(all(200 <= a.status < 300 for a in times), f"{[a.status for a in times]}")
        require(statistics.median(a.seconds for a in times) < INVOKE_SECONDS, "slower than 60 s")


def _optional_routes(server: Up, report: Report) -> None:
    with report.rule("GET /execution-parameters answers batch transform, or 404", BATCH):
        answer = ask(server.url, "GET", "/execution-parameters")
        require(answer.status in (200, 404), f"{answer.status}")
        if answer.status == 200:
            found = json.loads(answer.body)
            require({"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"} <= set(found), f"{found}")
    with report.advice("GET /metrics has Prometheus text: new endpoints are scraped by default", METRICS):
        answer = ask(server.url, "GET", "/metrics")
        require(answer.status == 200, f"{answer.status}: every scrape will be refused and no metric of the container is shown")
        require(b"# TYPE" in answer.body, f"no Prometheus text: {answer.body[:80]!r}")


def _stop(target: Serving, server: Up, report: Report) -> None:
    """Half of each request is sent before SIGTERM and half after it: sent for certain, and not yet answerable."""
    lost: list[str] | None = None
    with (
        report.rule(f"SIGTERM ends it before SIGKILL ({target.stop_seconds} s)", INFERENCE),
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        box, url = server.found
        half = len(target.payload) // 2
        connections = [half_sent(url, target, half) for _ in range(4)]
        time.sleep(1)
        stopping = pool.submit(box.stop, timeout=target.stop_seconds)
        time.sleep(0.5)
        lost = [why for why in (_second_half(connection, target, half) for connection in connections) if why]
        stopping.result()
        box.reload()
        require(box.attrs["State"]["ExitCode"] != 137, "ignored SIGTERM and was killed")
    with report.advice("requests that were sent before SIGTERM are answered", INFERENCE):
        server.need_answers()
        if lost is None:
            raise NotTried("it was not stopped with requests in it")
        require(not lost, f"{len(lost)} of 4 requests were not answered: {lost}")


def _second_half(connection: http.client.HTTPConnection, target: Serving, sent: int) -> str:
    """Why the request has no good answer."""
    try:
        connection.send(target.payload[sent:])
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()
    return "" if 200 <= status < 300 else str(status)


def half_sent(url: str, target: Serving, sent: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=INVOKE_SECONDS)
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Type", target.content_type)
    connection.putheader("Content-Length", str(len(target.payload)))
    connection.endheaders(target.payload[:sent])
    return connection
