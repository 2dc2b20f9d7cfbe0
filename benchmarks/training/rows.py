"""The rows of the table. Each sets up its sides, measures them in turn, and says what it did."""

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch

from benchmarks.training import ranks, stopping
from benchmarks.training.gpu import against_tensors, loops
from benchmarks.training.measure import Readings, Row, Side, interleaved, successive
from benchmarks.training.reference import reference
from benchmarks.training.sides import Ours, bare, photo_again, workspace
from containers.core.errors import ConfigError
from containers.train import machine, phases

CLAIMS = {
    "memory": ("end to end over tensors in memory, ResNet-50 at 224", 0.97, 0.93),
    "loader": ("over torchvision's reference, loader-bound", 1.8, 1.4),
    "compute": ("over torchvision's reference, ResNet-50 at 224", 1.03, 0.98),
    "cost": ("own cost per step", 0.3, 1.0),
    "scaling": ("two gloo ranks over one, a core each", 0.95, 0.85),
    "head": ("head phase on cached features, 20 epochs", 18.0, 10.0),
    "stop": ("SIGTERM to exit with a checkpoint", 5.0, 20.0),
    "gpu": ("ResNet-50 with mixed precision on a GPU, over tensors on it", math.nan, math.nan),
    "gpu loaders": ("the same with a loader process per core", math.nan, math.nan),
    "gpu memory": ("the same, batches in memory", math.nan, math.nan),
    "precision": ("float16 over bfloat16, tensors on a GPU, ResNet-50 at batch 64", math.nan, math.nan),
    "compile": ("torch_compile over plain torch, ResNet-50 at 224, batches in memory", math.nan, math.nan),
}
"""Goal and floor. Where the goal is the smaller number, less is better; where there is none, the number is told as it is."""


def _row(claim: str, value: float, spread: float, detail: str, raw: Mapping[str, object], unit: str = "x") -> Row:
    name, goal, floor = CLAIMS[claim]
    return Row(
        name=name, value=value, unit=unit, goal=goal, floor=floor, spread=spread, detail=detail, raw=raw, lower=goal < floor
    )


def compute(rounds: int) -> dict[str, Row]:
    """ResNet-50 in two rows: against tensors in memory and against the reference. Loader processes by default (-1)."""
    batch, steps = 16, 2
    with workspace(batch * steps) as (root, index):
        ours = Ours(root, index, batch_size=batch)
        workers = ours.run.loading.workers
        sides: dict[str, Side] = {
            "ours": ours, "memory": bare(ours, steps), "reference": reference(ours, workers),
            "reference, fused AdamW": reference(ours, workers, fused=True),
        }  # fmt: skip
        found = interleaved(sides, rounds)
    rate = batch * steps / median(found.wall["ours"])
    memory = (
        f"{rate:.2f} photos/s, batch {batch}, {workers} loader process; CPU seconds {found.cpu_ratio('memory', 'ours'):.3f}"
    )
    fused = found.ratio("reference, fused AdamW", "ours")
    other = f"CPU seconds {found.cpu_ratio('reference', 'ours'):.3f}; {fused:.3f} where the reference is given fused AdamW too"
    return {
        "memory": _row("memory", found.ratio("memory", "ours"), found.spread, memory, found.raw),
        "compute": _row("compute", found.ratio("reference", "ours"), found.spread, other, found.raw),
    }


def loader(rounds: int) -> dict[str, Row]:
    """A net that costs next to nothing. The row is one loader process, what `num_workers` -1 is here; others beside it."""
    count = 384
    found: dict[int, Readings] = {}
    with workspace(count) as (root, index):
        for workers in (1, 0, 2):
            ours = Ours(root, index, probe=True, batch_size=32, num_workers=workers)
            found[workers] = interleaved({"ours": ours, "reference": reference(ours, workers)}, rounds)
    mine, theirs = (count / median(found[1].wall[side]) for side in ("ours", "reference"))
    others = ", ".join(f"{found[n].ratio('reference', 'ours'):.2f} with {n} (A–A {found[n].spread:.0%})" for n in (0, 2))
    cpu = found[1].cpu_ratio("reference", "ours")
    detail = f"one loader process, {mine:.0f} photos/s against {theirs:.0f}; {others}; CPU seconds {cpu:.2f}"
    raw = {f"workers {n}": readings.raw for n, readings in found.items()}
    return {"loader": _row("loader", found[1].ratio("reference", "ours"), found[1].spread, detail, raw)}


def cost(rounds: int) -> dict[str, Row]:
    """Milliseconds per step that our loop adds to forward, backward and optimiser; the net costs next to nothing. At 64 pixels:
    at 32 a photo alone would be computed twice, for batch norm's sake.
    """
    steps, threads = 1000, torch.get_num_threads()
    torch.set_num_threads(1)  # so that only our own work differs, not how two threads find each other
    with workspace(steps) as (root, index):
        ours = Ours(root, index, probe=True, memory=True, batch_size=1, image_size=64)
        found = interleaved({"ours": ours, "bare": bare(ours, steps)}, rounds)
    torch.set_num_threads(threads)
    wall, cpu = (
        median(1000 * (a - b) / steps for a, b in zip(read["ours"], read["bare"], strict=True))
        for read in (found.wall, found.cpu)
    )
    whole = 1000 * median(found.wall["ours"]) / steps
    detail = (
        f"of {whole:.2f} ms per step in all; CPU {cpu:.2f} ms; normalising, sums and the look for a request to stop included"
    )
    return {"cost": _row("cost", wall, found.spread, detail, found.raw, "ms")}


def head(rounds: int) -> dict[str, Row]:
    """20 epochs of phase 1 on cached features, the pass that makes them included, over 20 epochs behind the backbone."""
    epochs, count = 20, 128
    with workspace(count) as (root, index):
        ours = Ours(root, index, batch_size=16, head_epochs=epochs, augmentation="none")
        trainer = ours.trainer

        def frozen_epoch() -> None:
            trainer.progress = type(trainer.progress)(phase=phases.HEAD)
            trainer._train_epoch(frozen)

        def cached() -> None:
            for chunk in (root / "scratch" / "features").glob("*"):
                chunk.unlink()
            phase = phases._head_on_features(ours.run)
            for epoch in range(epochs):
                trainer.progress = type(trainer.progress)(phase=phases.HEAD, epoch=epoch)
                trainer._train_epoch(phase)

        frozen = phases._head_on_photos(ours.run)
        found = interleaved({"frozen": frozen_epoch, "cached": cached}, rounds)
    cpu = epochs * found.cpu_ratio("frozen", "cached")
    detail = f"{count} photos; one frozen epoch measured, times {epochs}; CPU seconds {cpu:.1f}; bounded by {epochs}"
    return {"head": _row("head", epochs * found.ratio("frozen", "cached"), found.spread, detail, found.raw)}


def scaling(rounds: int) -> dict[str, Row]:
    """Two ranks over one; and two strangers side by side, which shows what sharing memory and cache alone costs here."""
    per_rank, cores = 16, sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        alone, stranger = (ranks.start(root / f"alone{core}", [core], per_rank) for core in cores)
        pair = ranks.start(root / "pair", cores, per_rank)
        for group in (alone, stranger, pair):
            group()  # warm-up
        read: dict[str, list[float]] = {"alone": [], "pair": [], "strangers": [], "again": []}
        for _ in range(rounds):
            read["alone"].append(alone())
            read["pair"].append(pair())
            alone.begin()
            stranger.begin()
            read["strangers"].append(max(alone.seconds(), stranger.seconds()))
            read["again"].append(alone())
        for group in (alone, stranger, pair):
            group.stop()
    value = median(a / b for a, b in zip(read["alone"], read["pair"], strict=True))
    limit = median(a / b for a, b in zip(read["alone"], read["strangers"], strict=True))
    spread = median(abs(a / b - 1) for a, b in zip(read["alone"], read["again"], strict=True))
    detail = f"ResNet-50, {per_rank} photos per rank and step; two ranks that do not talk: {limit:.3f}"
    return {"scaling": _row("scaling", value, spread, detail, read)}


def stop(rounds: int) -> dict[str, Row]:
    runs = [stopping.stop_once(8) for _ in range(max(3, rounds))]
    default = [stopping.stop_once(64) for _ in range(2)]
    seconds = [run.seconds for run in runs]
    large = max(run.seconds for run in default)
    detail = (
        f"python -m containers.train, ResNet-50, batch 8, {len(runs)} runs, slowest {max(seconds):.1f} s; at batch 64 (the "
        f"default) {large:.1f} s; peak RSS of all processes {max(r.rss_mb for r in runs):.0f} MB, at batch 64 "
        f"{max(r.rss_mb for r in default):.0f} MB"
    )
    raw = {"batch 8": seconds, "batch 64": [run.seconds for run in default]}
    return {"stop": _row("stop", median(seconds), successive(seconds), detail, raw, "s")}


def gpu(rounds: int) -> dict[str, Row]:
    found, details = against_tensors(rounds)
    sides = {"gpu": "ours", "gpu loaders": "loaders", "gpu memory": "memory"}
    return {
        claim: _row(claim, found.ratio("tensors", side), found.spread, details[side], found.raw)
        for claim, side in sides.items()
    }


def precision(rounds: int) -> dict[str, Row]:
    found, detail = loops(rounds)
    bf16, fp16 = list(found.wall)[:2]
    return {"precision": _row("precision", found.ratio(bf16, fp16), found.spread, detail, found.raw)}


def compiled(rounds: int) -> dict[str, Row]:
    """On the GPU where there is one. Compiling belongs to the warm-up: its seconds stand beside the row."""
    device, batch, steps = ("cuda", 64, 45) if torch.cuda.is_available() else ("cpu", 16, 2)
    with workspace(batch) as (root, index):
        index = photo_again(index, batch * steps)
        plain, made = (
            Ours(root, index, device, memory=True, batch_size=batch, torch_compile=wanted) for wanted in (False, True)
        )
        before = time.perf_counter()
        made()
        first = time.perf_counter() - before
        found = interleaved({"plain": plain, "compiled": made}, rounds)
    each = [1000 * median(found.wall[side]) / steps for side in ("plain", "compiled")]
    detail = (
        f"{made.run.accelerator.name}, {made.run.precision}, batch {batch}: {each[1]:.1f} ms a step against {each[0]:.1f}; the "
        f"first {steps} steps, which compile, {first:.0f} s"
    )
    return {"compile": _row("compile", found.ratio("plain", "compiled"), found.spread, detail, found.raw)}


ROWS: dict[str, Callable[[int], dict[str, Row]]] = {
    "scaling": scaling, "stop": stop, "compute": compute, "loader": loader, "cost": cost, "head": head,
    "gpu": gpu, "precision": precision, "compile": compiled,
}  # fmt: skip
"""In the order they run: forked ranks must come before this process has a pool of threads of its own."""


def possible(name: str) -> bool:
    """Whether this machine has what the row of ROWS is about."""
    if name == "compile":
        with suppress(ConfigError):
            machine.check_compiler(torch.cuda.device_count())
            return True
        return False
    return name not in ("gpu", "precision") or torch.cuda.is_available()
