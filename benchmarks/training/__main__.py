"""Run the benchmark: see the package's docstring."""

from containers.core import installed

if __name__ == "__main__":
    installed.insist("python -m benchmarks.training", "psutil", "torch")

import argparse
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from benchmarks.training import rows
from benchmarks.training.measure import Load, Row, watched
from containers.core import logs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--only", default="", help=f"words, comma-separated, of {', '.join(rows.ROWS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where the dated result goes")
    options = parser.parse_args()
    logs.configure("ERROR", stream=sys.stderr)
    wanted = options.only.split(",") if options.only else list(rows.ROWS)
    chosen = [name for name in rows.ROWS if name in wanted and rows.possible(name)]
    began, load = time.monotonic(), os.getloadavg()[0]
    found: dict[str, tuple[Row, Load]] = {}
    for name in chosen:
        with watched() as during:
            made = rows.ROWS[name](options.rounds)
        for claim, row in made.items():
            found[claim] = (row, during)
            print(_line(row, during), file=sys.stderr, flush=True)
    ordered = [found[claim] for claim in rows.CLAIMS if claim in found]
    moment = datetime.now(UTC)
    where = (
        f"# Training, {moment:%Y-%m-%d %H:%M} UTC\n\n{_cpu()}, {len(os.sched_getaffinity(0))} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {_gpu()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}; {(time.monotonic() - began) / 60:.0f} minutes; load average {load:.1f} before it began. "
        f"`{' '.join(['python -m benchmarks.training', *sys.argv[1:]])}`, {options.rounds} rounds"
    )
    page = report(ordered, where)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.out / f"training-{moment:%Y-%m-%d-%H%M}"
    name.with_suffix(".md").write_text(page)
    raw = [asdict(row) | {"verdict": row.verdict(during), "during": asdict(during)} for row, during in ordered]
    name.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    return 0


def report(found: list[tuple[Row, Load]], where: str) -> str:
    """The page: a table and how to read it."""
    head = "| claim | measured | goal | floor | A–A | foreign CPU | counts as | detail |\n" + "| --- " * 8 + "|\n"
    lines = [_line(row, during) for row, during in found]
    if rows.CLAIMS["gpu"][0] not in [row.name for row, _ in found]:
        why = "not chosen" if torch.cuda.is_available() else "no GPU"
        lines.append(f"| {rows.CLAIMS['gpu'][0]} | | | | | | not measured: {why} | |")
    notes = (
        "Medians of paired ratios, the sides interleaved in one run. A–A: by how much the same side differed from itself. "
        "Foreign CPU: the share of the cores that other processes used meanwhile. From 10 % of either on a row does not count."
    )
    return f"{where}\n\n{head}" + "\n".join(lines) + f"\n\n{notes}\n"


def _line(row: Row, during: Load) -> str:
    bounds = ["" if math.isnan(bound) else f"{bound:g}" for bound in (row.goal, row.floor)]
    value = "" if row.value is None else f"{row.value:.3g} {row.unit}".removesuffix(" x")
    return (
        f"| {row.name} | {value} | {bounds[0]} | {bounds[1]} | {row.spread:.1%} | {during.foreign:.0%} "
        f"| {row.verdict(during)} | {row.detail} |"
    )


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
