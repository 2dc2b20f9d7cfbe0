"""The training contract: the image is run as `docker run IMAGE train`, with /opt/ml as SageMaker makes it."""

import contextlib
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
ACCESS = GUIDE + "model-access-training-data.html"
ISOLATION = GUIDE + "mkt-algo-model-internet-free.html"
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
    job_seconds: float = 600
    stop_seconds: int = STOP_SECONDS
    running_words: str = ""
    """In the log once training is under way; where empty, ten seconds of life count."""

    @contextlib.contextmanager
    def tree(self, hyperparameters: Mapping[str, Any], **config: Any) -> Iterator[Path]:
        root = Path(tempfile.mkdtemp(prefix="conformance-"))
        try:
            yield engine.opt_ml(root, hyperparameters, channels=list(self.channels), **config)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    @contextlib.contextmanager
    def job(self, root: Path, channels: Mapping[str, Path] | None = None, **options: Any) -> Iterator[Container]:
        environment = {"TRAINING_JOB_NAME": "conformance", "TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-west-1:1:training-job/c"}
        volumes = engine.mounts(root, self.channels if channels is None else channels)
        alone = {} if "network" in options else {"network_mode": "none"}
        options = {"environment": environment, "volumes": volumes} | alone | options
        with engine.container(self.client, self.image, "train", **options) as box:
            yield box


def check(target: Training, report: Report) -> None:
    _a_job(target, report)
    _hyperparameters(target, report)
    _failure(target, report)
    _stop(target, report)
    _two_hosts(target, report)


def _a_job(target: Training, report: Report) -> None:
    """One run serves several rules: read-only channels, no network and 64 MB of /dev/shm are how it is started."""
    with target.tree(target.hyperparameters, interface="ethwe") as root:
        before = {path for path in root.rglob("*") if path.is_file()}
        with (
            report.rule("`train` trains on read-only channels (FastFile), without network, in 64 MB of /dev/shm", DOCKERFILE),
            target.job(root) as box,
        ):
            code = engine.exit_code(box, target.job_seconds)
            require(code == 0, f"exit code {code}; the log ends:\n{_tail(box)}")
        with report.rule("exit code 0 leaves a model in /opt/ml/model", OUTPUT):
            files = [path for path in (root / "model").rglob("*") if path.is_file()]
            require(files, "/opt/ml/model is empty")
            require(all(path.stat().st_size for path in files), "an empty file in /opt/ml/model")
        with report.rule("nothing is written in /opt/ml/input", RUNNING):
            made = {path for path in (root / "input").rglob("*") if path.is_file()} - before
            require(not made, f"written: {', '.join(str(path.relative_to(root)) for path in made)}")
        with report.rule("a completed job reports no failure", OUTPUT):
            require(not (root / "output" / "failure").exists(), "/opt/ml/output/failure exists after success")


def _hyperparameters(target: Training, report: Report) -> None:
    """The platform sends strings; the SDK sends JSON inside them (aws/sagemaker-python-sdk issues 3487, 5317)."""
    with report.rule(
        'hyperparameters that are JSON inside strings ("\\"adam\\"", as the SDK sends them) mean the same', RUNNING
    ):
        if not target.hyperparameters:
            raise NotTried("no hyperparameters were given: --hyperparameters '{\"epochs\": 1}'")
        twice = {name: json.dumps(str(value)) for name, value in target.hyperparameters.items()}
        with target.tree(twice) as root, target.job(root) as box:
            code = engine.exit_code(box, target.job_seconds)
            require(code == 0, f"exit code {code}; the log ends:\n{_tail(box)}")


def _failure(target: Training, report: Report) -> None:
    empty = Path(tempfile.mkdtemp(prefix="conformance-empty-"))
    try:
        with target.tree(target.hyperparameters) as root:
            with (
                report.rule("a job that cannot train (empty channels) ends with a non-zero exit code", OUTPUT),
                target.job(root, dict.fromkeys(target.channels, empty)) as box,
            ):
                code = engine.exit_code(box, target.job_seconds)
                require(code != 0, "exit code 0: SageMaker would call the job Completed")
            with report.rule(
                "the reason is in /opt/ml/output/failure, and its first 1024 bytes tell it",
                API + "API_DescribeTrainingJob.html",
            ):
                path = root / "output" / "failure"
                require(path.exists(), "no /opt/ml/output/failure: DescribeTrainingJob would say no more than the exit code")
                head = path.read_bytes()[:1024]
                require(head.strip(), "/opt/ml/output/failure is empty")
                text = head.decode("utf-8")
                cut = path.stat().st_size > 1024 and "Traceback" in text
                require(not cut, f"a traceback of {path.stat().st_size} bytes: its last line, the reason, is cut off")
    finally:
        shutil.rmtree(empty, ignore_errors=True)


def _stop(target: Training, report: Report) -> None:
    """StopTrainingJob, MaxRuntimeInSeconds and docker stop: SIGTERM to PID 1, then SIGKILL."""
    rule = f"SIGTERM ends the job before SIGKILL ({target.stop_seconds} s)"
    with (
        report.rule(rule, API + "API_StopTrainingJob.html"),
        target.tree(dict(target.hyperparameters) | target.long) as root,
        target.job(root) as box,
    ):
        if target.running_words:
            engine.wait_for_log(box, target.running_words, target.job_seconds)
        else:
            _alive_for(box, 10)
        started = time.monotonic()
        box.stop(timeout=target.stop_seconds)
        took = time.monotonic() - started
        box.reload()
        killed = box.attrs["State"]["ExitCode"] == 137
        require(not killed, f"ignored SIGTERM for {took:.0f} s and was killed: no checkpoint, and the wait is billed")


def _alive_for(box: Container, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        box.reload()
        if box.status == "exited":
            raise NotTried("the job ended before it could be stopped: --long '{\"epochs\": 100000}' makes one that lasts")
        time.sleep(0.2)


def _two_hosts(target: Training, report: Report) -> None:
    """Names are SageMaker's local mode's, not algo-1: the guide says host names can change and must not be hard-coded."""
    hosts = ["host-a-x7k2q", "host-b-x7k2q"]
    with (
        report.rule("two hosts train one job: names, order and interface are taken from resourceconfig.json", RUNNING),
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
        clash = _names(first) & _names(second)
        require(not clash, f"both hosts wrote {', '.join(sorted(clash))}: SageMaker puts their files into one archive")


def _names(root: Path) -> set[str]:
    model = root / "model"
    return {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}


def _tail(box: Container) -> str:
    return engine.logs(box)[-600:]
