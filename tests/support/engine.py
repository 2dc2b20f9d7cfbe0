"""Containers for tests and for the conformance tool: started as SageMaker starts them, never left behind."""

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import requests
from docker.models.containers import Container
from docker.models.networks import Network

LABEL = "org.kennel.test"


@contextlib.contextmanager
def container(
    client: docker.DockerClient, image: str, command: str | Sequence[str] | None, **options: Any
) -> Iterator[Container]:
    """A started container, removed with its anonymous volumes whatever happens. `options` are docker-py's."""
    made = client.containers.create(image, command, labels=[LABEL], **options)
    try:
        made.start()
        yield made
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            made.remove(force=True, v=True)


@contextlib.contextmanager
def built(client: docker.DockerClient, folder: Path, base: str) -> Iterator[str]:
    """The image that `folder`'s Dockerfile makes of the build argument BASE, under a name of its own; removed afterwards."""
    tag = f"kennel-test-{folder.name.replace('_', '-')}:{os.getpid()}"
    cli = next(path for path in ("/usr/bin/docker", shutil.which("docker") or "") if Path(path).exists())
    command = [cli, "build", "-q", "--build-arg", f"BASE={base}", "-t", tag, str(folder)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"DOCKER_BUILDKIT": "1"})
    try:
        yield tag
    finally:
        client.images.remove(tag, force=True)


@contextlib.contextmanager
def network(client: docker.DockerClient, **options: Any) -> Iterator[Network]:
    """A bridge of its own, without a way out."""
    made = client.networks.create(f"kennel-test-{uuid.uuid4().hex[:8]}", internal=True, labels={LABEL: ""}, **options)
    try:
        yield made
    finally:
        made.remove()


def joined(bridge: Network, alias: str) -> dict[str, Any]:
    """Options of a container that the others on `bridge` find under `alias`."""
    endpoint = docker.types.EndpointConfig("1.41", aliases=[alias])
    return {"network": bridge.name, "networking_config": {bridge.name: endpoint}, "hostname": alias}


def logs(box: Container) -> str:
    return box.logs().decode(errors="replace")


def exit_code(box: Container, seconds: float) -> int:
    """Waits for the end. Raises TimeoutError with the last lines of the log."""
    try:
        return int(box.wait(timeout=seconds)["StatusCode"])
    except requests.exceptions.RequestException:
        raise TimeoutError(f"still running after {seconds:.0f} s; its log ends:\n{logs(box)[-2000:]}") from None


def wait_until(happened: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true answer of `happened`. Raises TimeoutError saying `what` did not happen."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := happened():
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.1)


def wait_for_log(box: Container, words: str, seconds: float) -> str:
    """The log, once `words` are in it. Raises TimeoutError, or RuntimeError when the container ended without them."""

    def look() -> str | None:
        box.reload()
        text = logs(box)
        if words not in text and box.status == "exited":
            raise RuntimeError(f"ended without {words!r} in its log, which ends:\n{text[-2000:]}")
        return text if words in text else None

    return str(wait_until(look, seconds, f"{words!r} in the log"))


def url(box: Container, port: int = 8080) -> str:
    """Where the host reaches a port that was published with `ports={"8080/tcp": ("127.0.0.1", None)}`."""

    def published() -> Any:
        box.reload()
        if box.status == "exited":
            raise RuntimeError(f"ended while starting; its log ends:\n{logs(box)[-2000:]}")
        return box.ports.get(f"{port}/tcp")

    return f"http://127.0.0.1:{wait_until(published, 120, 'publishing the port')[0]['HostPort']}"


def opt_ml(
    root: Path,
    hyperparameters: Mapping[str, Any],
    *,
    channels: Sequence[str] = ("train",),
    hosts: Sequence[str] = ("algo-1",),
    current_host: str = "algo-1",
    interface: str = "eth0",
) -> Path:
    """Write the tree that SageMaker mounts at /opt/ml (developer guide, your-algorithms-training-algo-running-container)."""
    config = root / "input" / "config"
    for directory in (config, root / "model", root / "output" / "data", root / "checkpoints"):
        directory.mkdir(parents=True, exist_ok=True)
    for channel in channels:
        (root / "input" / "data" / channel).mkdir(parents=True, exist_ok=True)
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in hyperparameters.items()}
    (config / "hyperparameters.json").write_text(json.dumps(values))
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    (config / "inputdataconfig.json").write_text(json.dumps(dict.fromkeys(channels, channel)))
    resources = {
        "current_host": current_host,
        "current_instance_type": "ml.g4dn.xlarge",
        "current_group_name": "homogeneousCluster",
        "hosts": sorted(hosts),
        "instance_groups": [
            {"instance_group_name": "homogeneousCluster", "instance_type": "ml.g4dn.xlarge", "hosts": sorted(hosts)}
        ],
        "network_interface_name": interface,
    }
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    return root


def mounts(root: Path, channels: Mapping[str, Path] | None = None) -> dict[str, dict[str, str]]:
    """`volumes=` for that tree, with each channel read-only as FastFile mode gives it."""
    binds = {str(root): {"bind": "/opt/ml", "mode": "rw"}}
    for name, path in (channels or {}).items():
        binds[str(path)] = {"bind": f"/opt/ml/input/data/{name}", "mode": "ro"}
    return binds
