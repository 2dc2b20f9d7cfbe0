"""Run the benchmark: see the package's docstring."""

import argparse
import json
import multiprocessing
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.training.measure import Row, claimed, interleaved, table, timed
from benchmarks.training.sides import Ours, bare, job, photos, reference, workspace
from containers.core import logs
from containers.train import failure, phases, session

_FORK = multiprocessing.get_context("fork")


def in_memory(rounds: int) -> Row:
    """End to end against tensors in memory, ResNet-50."""
    with workspace(16) as (root, index):
        ours = Ours(root, index, batch_size=8, num_workers=0)
        pairs = interleaved(ours, bare(ours, 2), rounds)
    detail = f"CPU seconds {pairs.cpu_ratio:.3f}; {16 / min(pairs.first):.2f} photos/s"
    return claimed("end to end over tensors in memory, ResNet-50", pairs.ratio, pairs.spread, detail)


def loader_bound(rounds: int) -> Row:
    with workspace(192) as (root, index):
        ours = Ours(root, index, probe=True, batch_size=32, num_workers=0)
        pairs = interleaved(ours, reference(ours, root / "photos", 0), rounds)
    detail = f"CPU seconds {pairs.cpu_ratio:.2f}; {192 / min(pairs.first):.0f} photos/s against {192 / min(pairs.second):.0f}"
    return claimed("over the reference, loader-bound", pairs.ratio, pairs.spread, detail)


def compute_bound(rounds: int) -> Row:
    with workspace(16) as (root, index):
        ours = Ours(root, index, batch_size=8, num_workers=0)
        pairs = interleaved(ours, reference(ours, root / "photos", 0), rounds)
    detail = f"CPU seconds {pairs.cpu_ratio:.3f}"
    return claimed("over the reference, ResNet-50", pairs.ratio, pairs.spread, detail)


def own_cost(rounds: int) -> Row:
    """Milliseconds per step that our loop adds to forward, backward and optimiser; the net costs next to nothing."""
    steps = 200
    with workspace(steps) as (root, index):
        ours = Ours(root, index, probe=True, memory=True, batch_size=1, image_size=32)
        pairs = interleaved(ours, bare(ours, steps), rounds)
    costs = sorted(1000 * (a - b) / steps for a, b in zip(pairs.first, pairs.second, strict=True))
    cpu = sorted(1000 * (a - b) / steps for a, b in zip(pairs.cpu_first, pairs.cpu_second, strict=True))
    detail = f"CPU {cpu[len(cpu) // 2]:.2f} ms; normalising the batch included"
    return claimed("own cost per step, ms", costs[len(costs) // 2], pairs.spread, detail)


def head(rounds: int) -> Row:
    """20 epochs of phase 1 on cached features, the pass that makes them included, over 20 epochs behind the backbone."""
    epochs, count = 20, 48
    with workspace(count) as (root, index):
        ours = Ours(root, index, batch_size=16, num_workers=0, head_epochs=epochs, augmentation="none")
        trainer = ours._trainer

        def plain_epoch() -> None:
            trainer.progress = type(trainer.progress)(phase=phases.HEAD)
            trainer._train_epoch(frozen)

        def cached() -> None:
            for chunk in (root / "scratch" / "features").glob("*"):
                chunk.unlink()
            phase = phases._head_on_features(train_only)
            for epoch in range(epochs):
                trainer.progress = type(trainer.progress)(phase=phases.HEAD, epoch=epoch)
                trainer._train_epoch(phase)

        # the validation photos are needed on both sides and left out on both
        one = index.model_copy(update={"splits": index.splits | {"valid": index.splits["valid"][:1]}})
        train_only = type(ours.run)(**{**vars(ours.run), "index": one})
        frozen = phases._head_on_photos(ours.run)
        pairs = interleaved(plain_epoch, cached, rounds)
    value, cpu = epochs / pairs.ratio, epochs / pairs.cpu_ratio
    detail = f"CPU seconds {cpu:.1f}; one frozen epoch measured and multiplied by {epochs}"
    return claimed("head phase on cached features, 20 epochs", value, pairs.spread, detail)


def scaling(rounds: int) -> Row:
    """Two ranks with a core each over one rank with a core: the same photos per rank."""
    with workspace(16) as (root, index):
        alone, again, pair = [], [], []
        for number in range(rounds):
            alone.append(_ranks(root / f"a{number}", 1, index))
            pair.append(_ranks(root / f"b{number}", 2, index))
            again.append(_ranks(root / f"c{number}", 1, index))
    ratios = sorted(a / b for a, b in zip(alone, pair, strict=True))
    spread = sorted(abs(a / b - 1) for a, b in zip(alone, again, strict=True))
    middle = len(ratios) // 2
    detail = "ResNet-50, 8 photos per rank and step"
    return claimed("two gloo ranks over one, equal cores", ratios[middle], spread[middle], detail)


def _ranks(root: Path, world_size: int, index: object) -> float:
    """Seconds for one epoch of two steps, on `world_size` processes with one core each."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    queue = _FORK.SimpleQueue()

    def rank(number: int) -> None:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[number]})
        os.environ.update(RANK=str(number), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.set_num_threads(1)
        whole = photos(root / str(number) / "photos", 16 * world_size)
        ours = Ours(root / str(number), whole, batch_size=8 * world_size, num_workers=0)
        ours()
        ours.run.group.barrier()
        queue.put(timed(ours)[0])
        ours.run.group.barrier()
        os._exit(0)

    processes = [_FORK.Process(target=rank, args=(number,)) for number in range(world_size)]
    for process in processes:
        process.start()
    found = max(queue.get() for _ in processes)
    for process in processes:
        process.join()
    return float(found)


def stop(rounds: int) -> Row:
    """From SIGTERM to the end of the process, with a checkpoint and a usable model: ResNet-50 at 224."""
    seconds = []
    for _ in range(rounds):
        with workspace(8) as (root, index):
            this = job(root, index, batch_size=8, num_workers=1, head_epochs=0, epochs=1000, learning_rate=1e-4)

            def work(path: Path = this.paths.job_file) -> None:
                os._exit(failure.guarded(lambda: session.train(path)))

            process = _FORK.Process(target=work)
            process.start()
            while len(list(this.paths.checkpoint_dir.glob("checkpoint-*"))) < 2:
                time.sleep(0.05)
            asked = time.perf_counter()
            os.kill(int(process.pid or 0), signal.SIGTERM)
            process.join()
            seconds.append(time.perf_counter() - asked)
            if process.exitcode != 75 or not (this.paths.model_dir / "manifest.json").exists():
                raise RuntimeError(f"exit code {process.exitcode}, and no model")
    seconds.sort()
    value, spread = seconds[len(seconds) // 2], 0.0
    return claimed("SIGTERM to exit with a checkpoint, s", value, spread, f"{len(seconds)} runs, slowest {seconds[-1]:.1f} s")


ROWS: dict[str, Callable[[int], Row]] = {
    "memory": in_memory, "loader": loader_bound, "compute": compute_bound, "cost": own_cost, "scaling": scaling, "head": head,
    "stop": stop,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--only", default="", help=f"words, comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where the dated result goes")
    options = parser.parse_args()
    logs.configure("ERROR", stream=sys.stderr)
    chosen = [name for name in ROWS if not options.only or name in options.only.split(",")]
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    # forked ranks must come before this process has a pool of threads of its own
    order = sorted(chosen, key=lambda name: name not in ("scaling", "stop"))
    found = {}
    for name in order:
        found[name] = ROWS[name](options.rounds)
        print(table([found[name]], name).splitlines()[-1], flush=True)
    moment = datetime.now(UTC)
    where = (
        f"# Training, {moment:%Y-%m-%d %H:%M} UTC\n\n{_cpu()}, {cores} cores, torch {torch.__version__}; load average "
        f"{load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; {options.rounds} rounds. "
        "`python -m benchmarks.training`"
    )
    page = table([found[name] for name in chosen], where)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.out / f"training-{moment:%Y-%m-%d-%H%M}"
    name.with_suffix(".md").write_text(page)
    name.with_suffix(".json").write_text(json.dumps([asdict(found[each]) for each in chosen], indent=1) + "\n")
    return 0


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
