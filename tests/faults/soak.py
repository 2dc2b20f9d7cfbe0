"""python -m tests.faults.soak --events 200 --seed 7: the long version of what CI does with 12 events (make soak)."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import serving, training
from tests.support import artifacts, hosts

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
SERVING_SHARE = 3
"""One event of so many is the server's."""


def run(events: int, seed: int, folder: Path) -> dict[str, object]:
    """Every event, training's first. Raises training.Broken where an invariant does not hold."""
    began = time.monotonic()
    of_serving = events // SERVING_SHARE
    hosts.few(PHOTOS, folder / "photos", {"train": 6, "valid": 3, "test": 2})
    artifacts.save(folder / "model")
    expected = training.undisturbed(folder / "photos", folder / "undisturbed")
    hits = training.disturb(folder / "photos", folder / "training", training.schedule(events - of_serving, seed), expected)
    hits += serving.disturb(folder / "model", folder / "serving", serving.schedule(of_serving, seed))
    return {"events": len(hits), "seed": seed, "seconds": round(time.monotonic() - began), "hits": hits}


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Faults from a seeded schedule, every invariant checked.")
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kennel-soak-") as folder:
        try:
            result = run(given.events, given.seed, Path(folder))
        except training.Broken as broken:
            print(broken, file=sys.stderr)
            return 1
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
