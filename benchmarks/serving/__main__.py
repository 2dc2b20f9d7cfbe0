"""Run the benchmark: see the package's docstring."""

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.serving import measure, report, sides, subject
from containers.core import logs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".cache/benchmarks/serving"), help="subject and peers are kept here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where the dated result goes")
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one window")
    parser.add_argument("--only", default="", help="only sides whose name contains one of these words (comma-separated)")
    parser.add_argument("--quick", action="store_true", help="one round of short windows")
    options = parser.parse_args()
    logs.configure(stream=sys.stderr)
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.resolve()
    directory = subject.prepare(work / options.architecture, options.architecture)
    python, absent = sides.install_peers(work / "peers")
    plan = measure.Plan(seconds=options.seconds, concurrencies=(1, 16, 64), rounds=options.rounds, warm_up=3.0)
    if options.quick:
        plan = measure.Plan(seconds=2.0, concurrencies=(1, 16, 64), rounds=1, warm_up=1.0)
    engines = subject.engine_names(directory)
    chosen = [side for side in _sides(engines) if side.peer not in absent and _wanted(side.name, options.only)]
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        readings, limits, failed = measure.rounds(chosen, [*engines, "none"], plan, directory, python, Path(folder))
    moment = datetime.now(UTC)
    where = (
        f"# Serving, {options.architecture}, {moment:%Y-%m-%d %H:%M} UTC\n\n{_cpu()}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}; load average {load[0]:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; "
        f"{plan.rounds} round(s), windows of {plan.seconds:g} s. `python -m benchmarks.serving`"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.out / f"serving-{moment:%Y-%m-%d-%H%M}"
    raw = {"readings": [asdict(reading) for reading in readings], "limits": limits, "absent": absent, "failed": failed}
    name.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    page = report.text(report.rows(readings, limits), readings, absent, failed, where)
    name.with_suffix(".md").write_text(page)
    print(page)
    return 0


def _sides(engines: list[str]) -> list[sides.Side]:
    """Kennel twice with each engine, with eager and with none; every peer with what it is compared on."""
    own = [sides.kennel(engine, f" ({mark})") for engine in (*engines, "eager", "none") for mark in ("A", "A'")]
    same = [side for engine in engines for side in sides.tuned(engine, ("byoc", "litserve"))]
    return [
        *own,
        *sides.documented(),
        *sides.tuned("eager"),
        *same,
        *sides.tuned("none"),
    ]


def _wanted(name: str, only: str) -> bool:
    return not only or any(word in name for word in only.split(","))


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
