"""`loadtest`: what one server can do, and the scaling settings that follow from it.

Clients are doubled until more of them bring no more answers: the knee lies before that. Then random arrivals at shares of
that capacity show which rate still keeps the latency; half of it per instance is AWS's own advice for the invocations
metric (developer guide, endpoint-scaling-loadtest), 70 % of the requests in flight at the knee is ours for the other one.
"""

import argparse
import math
import mimetypes
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from rich.markup import escape
from rich.table import Table

from containers.core.errors import ConfigError
from deploy import load_generator as load
from deploy.context import Context
from deploy.errors import DeployError, Refused, TimedOut, code_of, explained

SAFETY_FACTOR = 0.5
IN_FLIGHT_SHARE = 0.7
_GAIN = 1.05  # doubling the clients must bring this much more to go on
_BAD_SHARE = 0.01
_OPEN_SHARES = (0.5, 0.7, 0.8, 0.9, 1.0)
_MOST_CLIENTS = 256
_READY_SECONDS = 600.0  # SageMaker's own default for a model's start
_NO_SERVER = (ConnectionRefusedError, socket.gaierror, InvalidURL, ValueError)
"""What waiting does not mend; the last of them is what no URL, no host's name and a wrong certificate raise."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Per instance unless said otherwise. `minimum` and `maximum` need the traffic that is expected."""

    capacity_rps: float
    knee_clients: int
    sustained_rps: float
    invocations_target: float
    concurrency_target: float
    minimum: int | None
    maximum: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photo", type=Path, required=True, help="what is sent")
    parser.add_argument("--url", help="a server's /invocations; default: the stage's endpoint, which costs money")
    parser.add_argument("--p95-ms", type=float, default=500.0, help="latency to keep (500)")
    parser.add_argument("--seconds", type=float, default=10.0, help="per step (10)")
    parser.add_argument("--instances", type=int, default=1, help="how many are behind the address now (1)")
    parser.add_argument("--usual-rps", type=float, help="expected traffic: proposes the minimum")
    parser.add_argument("--peak-rps", type=float, help="expected peak: proposes the maximum")


def run(args: argparse.Namespace, context: Context) -> None:
    """Raises ConfigError for flags that make no test and a photo that cannot be read, DeployError when the server gives no good
    answer at all.

    A server that is still loading its model is waited for.
    """
    _check(args)
    try:
        body = args.photo.read_bytes()
    except OSError as error:
        raise ConfigError(f"--photo: {error}") from None
    content_type = mimetypes.guess_type(args.photo.name)[0] or "application/octet-stream"
    where = args.url or context.names.endpoint
    if context.dry_run:
        context.emit({"would_load": where}, lambda: f"would load {where}, up to {_MOST_CLIENTS} clients at once")
        return
    runtime = None if args.url else endpoint_client(context)
    if args.url:
        wait_until_ready(args.url, context)
        ask_once(args.url, load.HttpSender(args.url, body, content_type))

    def make_sender() -> load.Sender:
        if args.url:
            return load.HttpSender(args.url, body, content_type)
        return EndpointSender(runtime, context.names.endpoint, body, content_type)

    steps = []
    for step in ramp(make_sender, args.p95_ms, args.seconds):
        steps.append(step)
        context.say(_said(step))
    proposal = propose(steps, args.p95_ms, args.instances, args.usual_rps, args.peak_rps, where)
    found = {"server": where, "steps": [step.as_dict() for step in steps], "proposal": asdict(proposal)}
    context.emit(found, lambda: _table(proposal, args.p95_ms))


def _check(args: argparse.Namespace) -> None:
    for flag in ("p95_ms", "seconds", "instances", "usual_rps", "peak_rps"):
        value = getattr(args, flag)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{flag.replace('_', '-')} {value:g}: a number above 0 is expected")
    if args.usual_rps and args.peak_rps and args.usual_rps > args.peak_rps:
        raise ConfigError(f"--usual-rps {args.usual_rps:g} is above --peak-rps {args.peak_rps:g}: the peak must be the higher")
    if args.url is not None and not args.url.lower().startswith(("http://", "https://")):
        raise ConfigError(f"--url {args.url!r}: it must begin with http:// or https://")


def wait_until_ready(url: str, context: Context) -> None:
    """Until /ping is no longer 503; a server that has no /ping is taken as it is. One that starts or is busy may hang up or let
    callers wait, as whatever listens for it does.

    Raises Refused where nobody listens, TimedOut where the server never becomes ready.
    """

    def state() -> str:
        try:
            return "not ready, its model is still loading" if load.ping(url) == 503 else "ready"
        except _NO_SERVER as error:
            raise Refused(url, f"nobody answers there ({error})", hint="start the server, or mend --url") from error
        except TimeoutError:
            return "not ready, it does not answer in time"
        except (OSError, HTTPException) as error:
            return f"not ready, {getattr(error, 'strerror', None) or 'it hangs up or speaks no HTTP'}"

    try:
        context.wait(url, state, until={"ready"}, limit_seconds=_READY_SECONDS, every_seconds=1.0)
    except TimedOut as late:
        hint = "the server's own log says why; run the same command again to go on waiting"
        raise TimedOut(url, f"/ping is {late.problem}", hint=hint) from late


def ask_once(url: str, sender: load.HttpSender) -> None:
    """Raises DeployError where the answer is neither good nor a busy server's: hundreds more would be the same."""
    hint = "choose another --photo, mend --url, or look at the server's log"
    with closing(sender):
        try:
            status, body = sender.ask()
        except (OSError, HTTPException, ValueError) as error:
            said = str(error) or type(error).__name__
            raise DeployError(url, f"the first request got no answer ({said})", hint=hint) from error
    if load.outcome_of(status) == "failed":
        said = load.message_of(body) or "no message"
        raise DeployError(url, f"the first request is answered {status}: {said}", hint=hint)


def ramp(make_sender: Callable[[], load.Sender], p95_ms: float, seconds: float) -> Iterator[load.Step]:
    """Closed steps of 1, 2, 4 … clients until two in a row bring no more, then open steps at shares of the best throughput."""
    load.closed(make_sender, 1, min(1.0, seconds))  # connections, caches, clocks of the CPU
    best, clients, without_gain = 0.0, 1, 0
    while clients <= _MOST_CLIENTS and without_gain < 2:  # one step may have met a busy moment
        step = load.closed(make_sender, clients, seconds)
        yield step
        without_gain = without_gain + 1 if step.throughput < best * _GAIN else 0
        best, clients = max(best, step.throughput), clients * 2
        if step.p95_ms > p95_ms or step.bad_share > _BAD_SHARE:
            break
    for share in _OPEN_SHARES:
        if best > 0:
            yield load.open_loop(make_sender, best * share, seconds)


def propose(
    steps: list[load.Step], p95_ms: float, instances: int, usual_rps: float | None, peak_rps: float | None, where: str
) -> Proposal:
    """Raises DeployError where not one step kept the latency: there is nothing to scale then."""

    def keeps(step: load.Step) -> bool:
        return step.p95_ms <= p95_ms and step.bad_share <= _BAD_SHARE

    kept = [step for step in steps if step.kind == "closed" and keeps(step)]
    if not kept:
        best = min((step.p95_ms for step in steps), default=math.inf)
        if math.isinf(best):
            counts = f"{sum(step.refused for step in steps)} refused, {sum(step.failed for step in steps)} failed"
            hint = "look at the server's log: it may refuse this photo, or have too much else to do"
            raise DeployError(where, f"no request got a good answer: {counts}", hint=hint)
        hint = "allow more with --p95-ms, choose a faster instance type or engine, or look at the server's log"
        raise DeployError(where, f"no load keeps 95 % of answers within {p95_ms:g} ms; the best was {best:.0f} ms", hint=hint)
    most = max(step.throughput for step in kept)
    knee = next(step for step in kept if step.throughput * _GAIN >= most)
    open_kept = [min(step.load, step.throughput) for step in steps if step.kind == "open" and keeps(step)]
    sustained = max(open_kept, default=most * _OPEN_SHARES[0]) / instances
    per_instance = sustained * SAFETY_FACTOR
    maximum = math.ceil(peak_rps / (sustained * IN_FLIGHT_SHARE)) if peak_rps else None
    minimum = max(1, math.ceil(usual_rps / (sustained * IN_FLIGHT_SHARE))) if usual_rps else None
    return Proposal(
        capacity_rps=most / instances,
        knee_clients=int(knee.load),
        sustained_rps=sustained,
        invocations_target=round(per_instance * 60, 1),
        concurrency_target=round(max(1.0, knee.load / instances * IN_FLIGHT_SHARE), 1),
        minimum=minimum,
        maximum=max(maximum, minimum or 1) if maximum else None,
    )


def endpoint_client(context: Context) -> Any:
    """Shared between threads: one attempt per request (a refusal is a result), one connection per client kept open."""
    once = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=65, max_pool_connections=_MOST_CLIENTS)
    with explained("credentials"):
        return context.session.client("sagemaker-runtime", region_name=context.region, config=once)


class EndpointSender:
    """Calls the stage's endpoint with `endpoint_client`."""

    def __init__(self, runtime: Any, endpoint: str, body: bytes, content_type: str) -> None:
        self._runtime = runtime
        self._call = {"EndpointName": endpoint, "Body": body, "ContentType": content_type}

    def send(self) -> load.Outcome:
        try:
            self._runtime.invoke_endpoint(**self._call)["Body"].read()
        except ClientError as error:
            refused = code_of(error) in ("ThrottlingException", "ServiceUnavailable")
            return "refused" if refused or error.response.get("OriginalStatusCode") == 503 else "failed"
        except BotoCoreError:
            return "failed"
        return "ok"

    def close(self) -> None:
        """The client is shared."""


def _said(step: load.Step) -> str:
    load_text = f"{step.load:.0f} clients" if step.kind == "closed" else f"{step.load:.1f} requests/s offered"
    bad = f", {step.refused} refused, {step.failed} failed" if step.refused or step.failed else ""
    times = f"p50 {step.p50_ms:.0f} ms, p95 {step.p95_ms:.0f} ms, p99 {step.p99_ms:.0f} ms"
    return f"{load_text}: {step.throughput:.1f} answers/s, {times}{bad}"


def _table(proposal: Proposal, p95_ms: float) -> Table:
    table = Table(show_header=False)
    rows: list[tuple[str, Any]] = [
        ("capacity of one instance", f"{proposal.capacity_rps:.1f} requests/s at {proposal.knee_clients} clients"),
        (f"random arrivals within {p95_ms:g} ms", f"{proposal.sustained_rps:.1f} requests/s"),
        ('[scaling] profile = "concurrency"', f"target = {proposal.concurrency_target:g}  (requests in flight)"),
        ('[scaling] profile = "seed"', f"target = {proposal.invocations_target:g}  (invocations per minute)"),
        ("minimum", proposal.minimum or "say --usual-rps"),
        ("maximum", proposal.maximum or "say --peak-rps"),
    ]
    for name, value in rows:
        table.add_row(escape(name), str(value))
    return table
