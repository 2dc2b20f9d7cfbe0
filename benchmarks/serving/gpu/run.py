"""The measurements, side by side in rounds, and the dated result."""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.serving import subject
from benchmarks.serving.gpu import bounds, copies, decoding, page, windows
from benchmarks.serving.machine import Server
from benchmarks.serving.sides import Side
from containers.core import fast_jpeg, host, logs, manifest, preprocessing
from containers.serve import engines
from containers.serve.predictor import Predictor

SIDES: dict[str, dict[str, str]] = {
    "A": {},
    "A'": {},
    "graphs off": {"SERVE_CUDA_GRAPHS": "off"},
    "batch 8": {"SERVE_MAX_BATCH": "8"},
    "batch 64": {"SERVE_MAX_BATCH": "64"},
    "2 processes": {"SERVE_MODEL_PROCESSES": "2"},
}
"""Name and settings of each server; A and A' are the same twice, as it is started without settings."""
WINDOWS = {
    1: ("A", "graphs off"),
    16: ("A", "A'"),
    64: ("A", "graphs off", "batch 8", "batch 64"),
    128: ("A", "A'", "batch 8", "batch 64", "2 processes"),
}
"""Concurrency and the sides that are measured at it, one after the other, in every round."""
BATCHES = (1, 8, 32, 64)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.gpu", description="Kennel's server on one GPU")
    parser.add_argument("--work", type=Path, default=Path(".cache/benchmarks/serving-gpu"), help="the subject is kept here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where the dated result goes")
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one window")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu shows only that it runs")
    parser.add_argument("--page", type=Path, metavar="RAW", help="measure nothing: write the page of a raw result again")
    options = parser.parse_args()
    if options.page:
        return _write_page(options.page)
    logs.configure(stream=sys.stderr)
    directory = subject.prepare(options.work.resolve() / options.architecture, options.architecture, exported=False)
    load = os.getloadavg()
    found = measured(directory, options.device, options.rounds, options.seconds)
    moment = datetime.now(UTC)
    given = f"--architecture {options.architecture} --rounds {options.rounds} --seconds {options.seconds:g}"
    given += "" if options.device == "cuda" else f" --device {options.device}"
    found["where"] = (
        f"# Serving on a GPU, {options.architecture}, {moment:%Y-%m-%d %H:%M} UTC\n\n"
        f"{torch.cuda.get_device_name() if options.device == 'cuda' else 'no GPU'}, torch {torch.__version__}, "
        f"{host.cores()} cores ({_cpu()}), Python {platform.python_version()}, {_decoder()}; "
        f"load average {load[0]:.1f} at the start; {options.rounds} round(s), windows of {options.seconds:g} s. "
        f"`python -m benchmarks.serving.gpu {given}`"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"serving-gpu-{moment:%Y-%m-%d-%H%M}.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    return _write_page(file)


def measured(directory: Path, device: str, rounds: int, seconds: float) -> dict[str, Any]:
    """All servers are up all the time; only one is loaded at a time. The bounds are measured in every round too."""
    photos, model_dir = directory / "photos", directory / "model"
    facts = manifest.read(model_dir)
    files = [path.read_bytes() for path in sorted(photos.iterdir())]
    pixels = np.stack([preprocessing.preprocess(data, facts.preprocessing) for data in files])
    engine = engines.load(model_dir, facts, requested="eager", device=device, threads=1 if device == "cuda" else host.cores())
    predictor = Predictor(engine, bounds.LARGEST)
    predictor.warm_up(facts.preprocessing.shape)
    recorded = engine.record(facts.preprocessing.shape, predictor.sizes)
    found: dict[str, Any] = {"windows": [], "forward": [], "decode": [], "pipeline": [], "graphs": recorded}
    generators = windows.Generators(windows.requests_of(photos))
    try:
        with bounds.decoding(photos, model_dir) as decoders, _servers(directory, device) as servers:
            found["startup_seconds"] = {name: round(server.startup_seconds, 1) for name, server in servers.items()}
            for server in servers.values():
                generators.closed(server.port, 16, 0.3)  # what is done the first time
            for number in range(rounds):
                found["forward"].append({b: bounds.forward(engine, pixels, b, seconds / 4) for b in BATCHES})
                found["decode"].append(decoders.through(len, 8, seconds))
                found["pipeline"].append({b: decoders.through(engine, b, seconds) for b in (8, bounds.LARGEST)})
                for concurrency, name in _order(number):
                    window = windows.measure(servers[name], generators, name, concurrency, number, seconds)
                    found["windows"].append(asdict(window))
                    print(json.dumps(found["windows"][-1]), file=sys.stderr, flush=True)
    finally:
        generators.stop()
    found["copies"] = {b: copies.milliseconds(facts.preprocessing.shape, b, device) for b in BATCHES}
    found["gpu_decode"] = decoding.tried(files, pixels, facts.preprocessing, engine, device, seconds / 2)
    return found


def _order(number: int) -> Sequence[tuple[int, str]]:
    order = [(concurrency, name) for concurrency, names in WINDOWS.items() for name in names]
    return order if number % 2 == 0 else order[::-1]


@contextmanager
def _servers(directory: Path, device: str) -> Iterator[dict[str, Server]]:
    """Every side's server, ready."""
    command = (sys.executable, "-m", "containers.serve", "--model-dir", "{model}", "--host", "127.0.0.1", "--port", "{port}")
    sides = [
        Side(name=name, peer="", engine="eager", command=command, environ={"SERVE_DEVICE": device, **settings})
        for name, settings in SIDES.items()
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(sides)) as pool:
        starting = [pool.submit(side.start, directory, Path(sys.executable), Path(folder)) for side in sides]
        started = {side.name: future.result() for side, future in zip(sides, starting, strict=True) if not future.exception()}
        try:
            for future in starting:
                future.result()
            yield started
        finally:
            list(pool.map(Server.stop, started.values()))


def _write_page(file: Path) -> int:
    text = page.text(json.loads(file.read_text()))
    file.with_suffix(".md").write_text(text)
    print(text)
    return 0


def _decoder() -> str:
    """With what both the server and the bare loops decode: the images have the first."""
    return "JPEGs by libjpeg-turbo and the compiled resize" if fast_jpeg.load() else "JPEGs by Pillow alone, at half the speed"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
