"""An image is run before it is pushed: what does not start here starts nowhere, and in SageMaker it takes minutes to say so,
or never does (an endpoint whose container does not start stays in Creating without a log).

Two runs, without network, on a root that nobody can write to, removed afterwards. The front door, as SageMaker opens it:
without photos or model it ends by design, with its exit code and reason (tests/contract/test_image_trial.py). And torch,
which neither front door imports: the CUDA that it was built for must be the label's, because the label chooses the driver.
"""

from dataclasses import dataclass

import docker
from docker.errors import APIError, ImageNotFound

from containers.core.errors import ArtifactError, ConfigError
from deploy.context import Context
from deploy.errors import Refused, TimedOut
from deploy.registry import CUDA_LABEL

FRONT_DOORS = {  # image → (exit code, part of the reason) with nothing mounted
    "train": (ConfigError.exit_code, "no train channel"),
    "serve": (ArtifactError.exit_code, "no model in /opt/ml/model"),
}
LIMIT_SECONDS = 180.0
_ARCHITECTURE = "amd64"  # of every instance type that has an image of ours
_TORCH = ["python3", "-c", "import torch; print(torch.version.cuda)"]
_WRITABLE = {"/tmp": "", "/opt/ml/output": ""}  # noqa: S108 - where SageMaker mounts a disk
_LINES = 15


@dataclass(frozen=True)
class _Ended:
    code: int
    log: str


def check(context: Context, engine: docker.DockerClient, image: str, name: str, limit: float = LIMIT_SECONDS) -> None:
    """`image` is train or serve, `name` what the engine calls it, `limit` seconds for each run.

    Raises Refused, with the container's last lines, where it is of another architecture, does not start, or holds another CUDA
    than its label says.
    """
    where = f"image {image}"
    try:
        found = engine.images.get(name)
    except ImageNotFound:
        raise Refused(where, f"{name} is not on this machine", hint="leave out --no-build") from None
    if (made_for := found.attrs.get("Architecture")) != _ARCHITECTURE:
        hint = f"build it again with DOCKER_DEFAULT_PLATFORM=linux/{_ARCHITECTURE}"
        raise Refused(where, f"is made for {made_for}, and no instance that could run it is", hint=hint)
    code, reason = FRONT_DOORS[image]
    ended = _run(context, engine, where, name, [image], limit)
    if ended.code != code or reason not in ended.log:
        raise _refused(where, name, [image], f"ended with {ended.code}, not with {code} and “{reason}”", ended.log)
    ended = _run(context, engine, where, name, _TORCH, limit)
    if ended.code:
        raise _refused(where, name, _TORCH, f"ended with {ended.code}", ended.log)
    inside, label = (ended.log.split() or ["nothing"])[-1].replace("None", "none"), found.labels.get(CUDA_LABEL, "none")
    if inside != label:
        hint = f"set the label {CUDA_LABEL} in containers/Dockerfile to what is inside: the endpoint's driver is chosen by it"
        raise Refused(where, f"its label says CUDA {label}, its torch was built for {inside}", hint=hint)


def _run(context: Context, engine: docker.DockerClient, where: str, name: str, command: list[str], limit: float) -> _Ended:
    """Raises Refused where it cannot be started or does not end."""
    box = engine.containers.create(name, command, network_mode="none", read_only=True, tmpfs=_WRITABLE)

    def state() -> str:
        box.reload()
        return str(box.status)

    def log() -> str:
        return str(box.logs().decode(errors="replace"))

    try:
        box.start()
        context.wait(f"{where} is tried out", state, until={"exited", "dead"}, limit_seconds=limit, every_seconds=0.5)
        return _Ended(int(box.attrs["State"]["ExitCode"]), log())
    except TimedOut:
        raise _refused(where, name, command, f"still runs after {limit:.0f} s", log()) from None
    except APIError as error:
        raise _refused(where, name, command, f"cannot be started: {error.explanation or error}", "") from error
    finally:
        box.remove(force=True, v=True)


def _refused(where: str, name: str, command: list[str], what: str, log: str) -> Refused:
    lines = "".join(f"\n  | {line}" for line in log.splitlines()[-_LINES:])
    told = f"; its last lines:{lines}" if lines else ""
    again = " ".join([command[0], *(f"'{word}'" for word in command[1:])])
    hint = f"nothing was pushed; to see it again: docker run --rm --network none {name} {again}"
    return Refused(where, f"does not start: {again} {what}{told}", hint=hint)
