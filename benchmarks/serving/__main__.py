"""Run the benchmark: see the package's docstring."""

from containers.core import installed

if __name__ == "__main__":
    installed.insist("python -m benchmarks.serving", "numpy", "psutil")

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.serving import claims, measure, report, sides, subject
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
    parser.add_argument(
        "--page", type=Path, metavar="RAW", help="measure nothing: write the page of a raw result (.json) again"
    )
    options = parser.parse_args()
    if options.page:
        return _write_page(options.page)
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
        f"{plan.rounds} round(s), windows of {plan.seconds:g} s. `{_command(options)}`"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"serving-{moment:%Y-%m-%d-%H%M}.json"
    raw = {"where": where, "limits": limits, "absent": absent, "failed": failed, "readings": [asdict(r) for r in readings]}
    file.write_text(json.dumps(raw, indent=1) + "\n")
    return _write_page(file)


def _write_page(file: Path) -> int:
    raw = json.loads(file.read_text())
    readings = [measure.Reading.from_json(each) for each in raw["readings"]]
    page = report.text(claims.rows(readings, raw["limits"]), readings, raw["absent"], raw["failed"], raw["where"])
    file.with_suffix(".md").write_text(page)
    print(page)
    return 0


def _command(options: argparse.Namespace) -> str:
    """What decides what is measured; where files lie does not."""
    given = f"--architecture {options.architecture} --rounds {options.rounds} --seconds {options.seconds:g}"
    only = f" --only {options.only}" if options.only else ""
    return f"python -m benchmarks.serving {'--quick' if options.quick else given}{only}"


def _sides(engines: list[str]) -> list[sides.Side]:
    """Kennel twice with each engine, with eager and with none; every peer with what it is compared on.

    The pairs stand around all that they are compared with: a machine that grows slower in between is seen. What HTTP costs is
    compared with no engine's figures, so those sides stand together, in a minute or two.
    """
    first, second = ([sides.kennel(engine, f" ({mark})") for engine in (*engines, "eager", "none")] for mark in ("A", "A'"))
    same = [side for engine in engines for side in sides.tuned(engine, ("byoc", "litserve"))]
    peers = [*sides.documented(), *sides.tuned("eager"), *same]
    return [*first[:-1], *peers, *second[:-1], first[-1], *sides.tuned("none"), second[-1]]


def _wanted(name: str, only: str) -> bool:
    return not only or any(word in name for word in only.split(","))


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
