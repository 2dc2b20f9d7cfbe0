"""Training jobs in containers on a private network, one container per host, as SageMaker lays them out."""

import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from tests.support import engine

NAMES = ("algo-1", "algo-2")
QUICK = {
    "architecture": "squeezenet1_1", "pretrained": "none", "engines": "none", "head_epochs": 0, "epochs": 2, "batch_size": 6,
    "patience": 0, "learning_rate": 1e-4, "image_size": 64,
}  # fmt: skip
ENDLESS = QUICK | {"epochs": 100_000}
START_SECONDS = 300.0
"""Deadlines are for machines under load, not expectations."""


def events(box: Container, event: str) -> list[dict[str, Any]]:
    """The JSON lines of a container's log whose event is `event`."""
    lines = [json.loads(line) for line in engine.logs(box).splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line.get("event") == event]


@dataclass
class Hosts:
    """`roots[name]` is what SageMaker would mount at /opt/ml on that host."""

    client: docker.DockerClient
    image: str
    channels: Mapping[str, Path]
    roots: Mapping[str, Path]
    bridge: Any
    addresses: Mapping[str, str]
    stack: contextlib.ExitStack
    boxes: dict[str, Container]

    def start(self, name: str, **options: Any) -> Container:
        endpoint = docker.types.EndpointConfig("1.41", aliases=[name], ipv4_address=self.addresses[name])
        volumes = engine.mounts(self.roots[name], self.channels)
        network = {"network": self.bridge.name, "networking_config": {self.bridge.name: endpoint}, "hostname": name}
        environment = {"TRAINING_JOB_NAME": "two-hosts", "OMP_NUM_THREADS": "1", "KENNEL_DEVICE": "cpu"}
        made = engine.container(
            self.client, self.image, "train", volumes=volumes, environment=environment, **network, **options
        )
        self.boxes[name] = self.stack.enter_context(made)
        return self.boxes[name]

    def cut(self, name: str) -> None:
        self.bridge.disconnect(self.boxes[name])

    def mend(self, name: str) -> None:
        """The same address again, so that connections which did not notice go on."""
        self.bridge.connect(self.boxes[name], aliases=[name], ipv4_address=self.addresses[name])

    def failure(self, name: str) -> str:
        path = self.roots[name] / "output" / "failure"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def model_files(self, name: str) -> set[str]:
        model = self.roots[name] / "model"
        return {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}


@contextlib.contextmanager
def hosts(
    client: docker.DockerClient, image: str, channels: Mapping[str, Path], root: Path, hyperparameters: Mapping[str, Any]
) -> Iterator[Hosts]:
    """Two hosts that are not started yet, on a network of their own without a way out."""
    roots = {
        name: engine.opt_ml(root / name, hyperparameters, channels=list(channels), hosts=NAMES, current_host=name)
        for name in NAMES
    }
    subnet = f"10.{random.randrange(100, 200)}.{random.randrange(256)}"
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=f"{subnet}.0/24")])
    with engine.network(client, ipam=pool) as bridge, contextlib.ExitStack() as stack:
        addresses = {name: f"{subnet}.{index + 11}" for index, name in enumerate(NAMES)}
        yield Hosts(client, image, channels, roots, bridge, addresses, stack, {})


def few(photos: Path, folder: Path, counts: Mapping[str, int]) -> dict[str, Path]:
    """Channels with the first photos of each class."""
    for split, count in counts.items():
        for of_class in sorted((photos / split).iterdir()):
            target = folder / split / of_class.name
            target.mkdir(parents=True)
            for path in sorted(of_class.iterdir())[:count]:
                (target / path.name).write_bytes(path.read_bytes())
    return {split: folder / split for split in counts}
