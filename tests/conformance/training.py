"""The training contract: the image is run as `docker run IMAGE train`, with /opt/ml as SageMaker makes it."""

import contextlib
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from tests.conformance.report import API, GUIDE, NotTried, Report, require
from tests.support import engine

RUNNING = GUIDE + "your-algorithms-training-algo-running-container.html"
DOCKERFILE = GUIDE + "your-algorithms-training-algo-dockerfile.html"
OUTPUT = GUIDE + "your-algorithms-training-algo-output.html"
ISOLATION = GUIDE + "mkt-algo-model-internet-free.html"
SDK_ISSUES = " ".join(f"https://github.com/aws/sagemaker-python-sdk/issues/{number}" for number in (3487, 5317))
STOP_SECONDS = 120
"""Between SIGTERM and SIGKILL (API reference, StopTrainingJob)."""


@dataclass(frozen=True)
class Training:
    """`channels` are folders to train on; `hyperparameters` should make the job last a minute, `long` for ever."""

    client: docker.DockerClient
    image: str
    channels: Mapping[str, Path]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    long: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    job_seconds: float = 600
    stop_seconds: int = STOP_SECONDS
    running_words: str = ""
    """In the log once training is under way; where empty, ten seconds of life count."""
    isolated: bool = True
    """Without network and with Docker's 64 MB of /dev/shm; else with Docker's network and 2 GB."""

    @contextlib.contextmanager
    def tree(self, hyperparameters: Mapping[str, Any], **config: Any) -> Iterator[Path]:
        root = Path(tempfile.mkdtemp(prefix="conformance-"))
        try:
            yield engine.opt_ml(root, hyperparameters, channels=list(self.channels), **config)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    @contextlib.contextmanager
    def job(self, root: Path, channels: Mapping[str, Path] | None = None, **options: Any) -> Iterator[Container]:
        named = {"TRAINING_JOB_NAME": "conformance", "TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-west-1:1:training-job/c"}
        environment = named | dict(self.environment)
        volumes = engine.mounts(root, self.channels if channels is None else channels)
        room = {"network_mode": "none"} if self.isolated else {"shm_size": "2g"}
        room = {} if "network" in options else room
        options = {"environment": environment, "volumes": volumes} | room | options
        with engine.container(self.client, self.image, "train", **options) as box:
            yield box


@dataclass(frozen=True)
class _Completed:
    """A job that ended with exit code 0: its files below /opt/ml afterwards, with their sizes, and those it was given."""

    files: Mapping[str, int]
    given: Mapping[str, int]


def check(target: Training, report: Report) -> None:
    target, done = _a_job(target, report)
    _what_it_left(done, report)
    _hyperparameters(target, done, report)
    _failure(target, report)
    _stop(target, report)
    _two_hosts(target, done, report)


def _a_job(target: Training, report: Report) -> tuple[Training, _Completed | None]:
    """First without network and in 64 MB of /dev/shm; where no job completes so, with both, and all that follows too."""
    done, alone = _attempt(target)
    why = alone
    if done is None:
        target = dataclasses.replace(target, isolated=False)
        done, why = _attempt(target)
    with report.rule("`train` trains and ends with exit code 0, with read-only channels (FastFile)", DOCKERFILE):
        require(done, why)
    with report.advice("it needs no network (EnableNetworkIsolation) and no more than 64 MB of /dev/shm", ISOLATION):
        _need(done)
        require(target.isolated, f"with Docker's network and 2 GB a job completed, without:\n{alone}")
    return target, done


def _attempt(target: Training, hyperparameters: Mapping[str, Any] | None = None) -> tuple[_Completed | None, str]:
    """A job run to its end, and why it did not complete."""
    try:
        with target.tree(target.hyperparameters if hyperparameters is None else hyperparameters, interface="ethwe") as root:
            given = _files(root)
            with target.job(root) as box:
                code = engine.exit_code(box, target.job_seconds)
                why = f"exit code {code}; the log ends:\n{_tail(box)}"
                return (_Completed(_files(root), given), "") if code == 0 else (None, why)
    except (docker.errors.DockerException, TimeoutError) as error:
        return None, str(error)


def _need(done: _Completed | None) -> _Completed:
    if done is None:
        raise NotTried("no job completed")
    return done


def _what_it_left(done: _Completed | None, report: Report) -> None:
    with report.rule("a job that completed has left a model in /opt/ml/model", OUTPUT):
        sizes = [size for path, size in _need(done).files.items() if path.startswith("model/")]
        require(sizes, "/opt/ml/model is empty")
        require(any(sizes), "/opt/ml/model has empty files only")
    with report.advice("nothing is written in /opt/ml/input", RUNNING):
        made = [path for path in _need(done).files if path.startswith("input/") and path not in _need(done).given]
        require(not made, f"written: {', '.join(sorted(made))}")
    with report.advice("a job that completed reports no failure", OUTPUT):
        require("output/failure" not in _need(done).files, "/opt/ml/output/failure exists after success")


def _hyperparameters(target: Training, done: _Completed | None, report: Report) -> None:
    """The platform sends strings; the SDK sends JSON inside them."""
    rule = 'hyperparameters that are JSON inside strings ("\\"adam\\"", as the SDK sends them) mean the same'
    with report.advice(rule, SDK_ISSUES):
        _need(done)
        if not target.hyperparameters:
            raise NotTried("no hyperparameters were given: --hyperparameters '{\"epochs\": 1}'")
        same, why = _attempt(target, {name: json.dumps(str(value)) for name, value in target.hyperparameters.items()})
        require(same, why)


def _failure(target: Training, report: Report) -> None:
    empty = Path(tempfile.mkdtemp(prefix="conformance-empty-"))
    try:
        with target.tree(target.hyperparameters) as root:
            code = None
            with (
                report.rule("a job that cannot train (empty channels) ends with a non-zero exit code", OUTPUT),
                target.job(root, dict.fromkeys(target.channels, empty)) as box,
            ):
                code = engine.exit_code(box, target.job_seconds)
                require(code != 0, "exit code 0: SageMaker would call the job Completed")
            with report.rule(
                "the reason is in /opt/ml/output/failure, and its first 1024 characters tell it",
                API + "API_DescribeTrainingJob.html",
            ):
                if not code:
                    raise NotTried("no job failed")
                _reason(root / "output" / "failure")
    finally:
        shutil.rmtree(empty, ignore_errors=True)


def _reason(path: Path) -> None:
    require(path.exists(), "no /opt/ml/output/failure: DescribeTrainingJob would say no more than the exit code")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    require(text, "/opt/ml/output/failure is empty")
    cut = len(text) > 1024 and text.startswith("Traceback")
    require(not cut, f"a traceback of {len(text)} characters: its last line, the reason, is cut off")


def _stop(target: Training, report: Report) -> None:
    """StopTrainingJob, MaxRuntimeInSeconds and docker stop: SIGTERM to PID 1, then SIGKILL."""
    rule = f"SIGTERM ends the job before SIGKILL ({target.stop_seconds} s)"
    with (
        report.rule(rule, API + "API_StopTrainingJob.html"),
        target.tree(dict(target.hyperparameters) | target.long) as root,
        target.job(root) as box,
    ):
        _under_way(target, box)
        started = time.monotonic()
        box.stop(timeout=target.stop_seconds)
        took = time.monotonic() - started
        box.reload()
        killed = box.attrs["State"]["ExitCode"] == 137
        require(not killed, f"ignored SIGTERM for {took:.0f} s and was killed: no checkpoint, and the wait is billed")


def _under_way(target: Training, box: Container) -> None:
    """Raises NotTried where the job ends first."""
    if target.running_words:
        try:
            engine.wait_for_log(box, target.running_words, target.job_seconds)
        except (RuntimeError, TimeoutError) as error:
            raise NotTried(f"no job was under way: {error}") from error
        return
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        box.reload()
        if box.status == "exited":
            raise NotTried("the job ended before it could be stopped: --long '{\"epochs\": 100000}' makes one that lasts")
        time.sleep(0.2)


def _two_hosts(target: Training, done: _Completed | None, report: Report) -> None:
    """Names are SageMaker's local mode's, not algo-1: the guide says host names can change and must not be hard-coded."""
    hosts = ["host-a-x7k2q", "host-b-x7k2q"]
    with (
        report.rule("two hosts train one job: names, order and interface are taken from resourceconfig.json", RUNNING),
        _able(target, done),
        target.tree(target.hyperparameters, hosts=hosts, current_host=hosts[0]) as first,
        target.tree(target.hyperparameters, hosts=hosts, current_host=hosts[1]) as second,
        engine.network(target.client) as bridge,
        contextlib.ExitStack() as stack,
    ):
        boxes = []
        for name, root in zip(hosts, (first, second), strict=True):
            boxes.append(stack.enter_context(target.job(root, **engine.joined(bridge, name))))
        codes = [engine.exit_code(box, target.job_seconds) for box in boxes]
        require(codes == [0, 0], f"exit codes {codes}; the log of {hosts[0]} ends:\n{_tail(boxes[0])}")
        clash = {path for path in set(_files(first)) & set(_files(second)) if path.startswith("model/")}
        require(not clash, f"both hosts wrote {', '.join(sorted(clash))}: SageMaker puts their files into one archive")


@contextlib.contextmanager
def _able(target: Training, done: _Completed | None) -> Iterator[None]:
    _need(done)
    if not target.isolated:
        raise NotTried("the hosts' network has no way out, and one host alone completes no job without")
    yield


def _files(root: Path) -> dict[str, int]:
    """Sizes in bytes, by the path below `root`; links count as what they are."""
    return {
        str(path.relative_to(root)): path.lstat().st_size for path in root.rglob("*") if path.is_symlink() or path.is_file()
    }


def _tail(box: Container) -> str:
    return engine.logs(box)[-600:]
