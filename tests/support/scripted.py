"""A server whose engine does what a test writes into its script."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.scripted_server import GPUS, VARIABLE, Script
from tests.support.server import Server, serving


class Scripted:
    """A server and the script of its engine."""

    def __init__(self, server: Server, path: Path) -> None:
        self.server, self._path = server, path

    def play(self, **changes: object) -> None:
        Script(**changes).write(self._path)

    @property
    def batches(self) -> list[tuple[str, int]]:
        """Device and photos of each batch that the engine was given, warm-up and golden photo included."""
        lines = self._path.with_suffix(".batches").read_text().splitlines()
        return [(device, int(photos)) for device, photos in map(str.split, lines)]

    @property
    def sizes(self) -> list[int]:
        """Photos of each of `batches`."""
        return [photos for _, photos in self.batches]


def with_gpus(folder: Path, count: int) -> dict[str, str]:
    """Environment of a server whose host shows so many GPUs, and no other."""
    devices = folder / "dev"
    devices.mkdir()
    for number in range(count):
        (devices / f"nvidia{number}").touch()
    return {GPUS: str(devices), "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(count)))}


@contextmanager
def scripted(model_dir: Path, folder: Path, environ: dict[str, str] | None = None, **settings: Any) -> Iterator[Scripted]:
    """Ready, with one front unless told otherwise."""
    path = folder / "script.json"
    Script().write(path)
    wanted = {
        "program": "tests.support.scripted_server",
        "engine": "scripted",
        "fronts": 1,
        "stuck_after_seconds": 600,
        **settings,
    }
    with serving(model_dir, folder / "log", {VARIABLE: str(path), **(environ or {})}, **wanted) as server:
        yield Scripted(server, path)
