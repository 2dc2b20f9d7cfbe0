"""What the machine could do without a server: one process per core, each decoding photos and running batches in a bare loop.

python -m benchmarks.serving.limit SUBJECT ENGINE SECONDS     prints one JSON object
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from containers.core import manifest, preprocessing
from containers.core.preprocessing import PreprocessSpec
from containers.serve import engines

_BATCH = 8


def _photos(subject: Path, kind: str = "photos") -> list[bytes]:
    return [path.read_bytes() for path in sorted((subject / kind).iterdir())]


def _decode(data: bytes, spec: PreprocessSpec) -> np.ndarray:
    return preprocessing.preprocess(data, spec)


def _loop(
    subject: Path, name: str, seconds: float, barrier: Barrier, results: "multiprocessing.Queue[tuple[int, float, float]]"
) -> None:
    facts = manifest.read(subject / "model")
    spec, photos = facts.preprocessing, _photos(subject)
    run: Callable[[np.ndarray], np.ndarray]
    run = (
        (lambda batch: batch[:, 0, 0])
        if name == "none"
        else engines.load(subject / "model", facts, requested=name, device="cpu")
    )
    run(np.stack([_decode(data, spec) for data in photos[:_BATCH]]))
    barrier.wait()
    began, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        chosen = [photos[(done + index) % len(photos)] for index in range(_BATCH)]
        run(np.stack([_decode(data, spec) for data in chosen]))
        done += _BATCH
    results.put((done, time.perf_counter() - began, time.process_time() - cpu))


def throughput(subject: Path, name: str, seconds: float) -> dict[str, object]:
    """Photos per second over all cores, and CPU ms per photo: decode + batches of 8 on `name`; none: decode alone."""
    cores = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(cores), context.Queue()
    workers = [context.Process(target=_loop, args=(subject, name, seconds, barrier, results)) for _ in range(cores)]
    for worker in workers:
        worker.start()
    done: list[tuple[int, float, float]] = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    cpu_ms = sum(cpu for _, _, cpu in done) / sum(photos for photos, _, _ in done) * 1000
    return {"images_per_second": sum(photos / wall for photos, wall, _ in done), "cpu_ms": cpu_ms}


def latency_ms(subject: Path, name: str, seconds: float) -> float:
    """Median of decode + one photo through `name` with one thread, nothing else running."""
    facts = manifest.read(subject / "model")
    photos, engine = _photos(subject), engines.load(subject / "model", facts, requested=name, device="cpu")
    taken: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(taken) < 5:
        started = time.perf_counter()
        engine(_decode(photos[len(taken) % len(photos)], facts.preprocessing)[None])
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[1:])) * 1000


def large_photos(subject: Path, name: str) -> dict[str, float]:
    """12-megapixel photos: CPU time of our decode and of Pillow's full-resolution way, and how often the answers agree."""
    facts = manifest.read(subject / "model")
    spec, photos = facts.preprocessing, _photos(subject, "large")
    engine = engines.load(subject / "model", facts, requested=name, device="cpu")
    spent, answers = [], []
    for decode in (_decode, _full):
        decode(photos[0], spec)
        began = time.process_time()
        images = [decode(data, spec) for data in photos]
        spent.append((time.process_time() - began) / len(photos) * 1000)
        answers.append(np.concatenate([engine(image[None]) for image in images]))
    agree = float((answers[0].argmax(1) == answers[1].argmax(1)).mean())
    return {"ms": spent[0], "pillow_ms": spent[1], "agreement": agree, "worst_dp": float(np.abs(answers[0] - answers[1]).max())}


def _full(data: bytes, spec: PreprocessSpec) -> np.ndarray:
    """Decode every pixel, resize the whole, cut the centre out: torchvision's Resize and CenterCrop."""
    image = preprocessing.decode(data)
    scale = spec.resize / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), preprocessing.FILTERS[spec.interpolation])
    left, top = (image.width - spec.crop) // 2, (image.height - spec.crop) // 2
    return np.asarray(image.crop((left, top, left + spec.crop, top + spec.crop)))


def main() -> None:
    subject, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    found = throughput(subject, name, seconds)
    if name != "none":
        found["latency_ms"] = latency_ms(subject, name, seconds / 2)
        found["large"] = large_photos(subject, name)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
