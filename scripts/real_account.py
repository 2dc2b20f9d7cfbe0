"""A stage's whole life on a real AWS account, destroyed at the end whatever happens. It costs money.

    python -m scripts.real_account --stage trial --photos examples/photos --cap 300

Two limits: no stage is begun that could cost more than --cap dollars in a month, should it be forgotten, no job that could cost
more than what is left of them, and none lives longer than --hours. deploy/environments/trial.toml is a stage small enough.
Nothing here has been run on a real account by us; tests/aws/test_real_account.py runs the same life in a fake one.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Deploy = Callable[..., dict[str, Any]]


class Failed(Exception):
    """A command ended with an error; its own message is on the screen."""


def life(deploy: Deploy, photos: Path, cap: float) -> list[str]:
    """Runs every command once; returns what was done. Raises Failed, after destroying what it began itself."""
    planned = deploy("plan")
    most = planned["cost"]["ceiling_per_month"]
    if most is None or most > cap:
        raise Failed(f"the stage can cost ${most} a month, --cap is ${cap}: lower [scaling] maximum or choose smaller machines")
    if there := deploy("destroy", "--dry-run", "--delete-data")["would_delete"]:
        raise Failed(f"the stage stands already, and would be destroyed with its data: {', '.join(there)}; name a new one")
    try:
        deploy("apply")
        deploy("images")
        deploy("data", str(photos), "--name", "trial")
        train = ("train", "--data", "trial", "--set", "epochs=1", "--set", "head_epochs=1")
        job_most = deploy(*train, "--dry-run")["cost"]["at_most"]
        if job_most is None or most + job_most > cap:
            both = f"a month of the stage (${most:,.2f}) and its training job (${job_most}) can cost more than --cap ${cap:g}"
            raise Failed(f"{both}: lower [training] max_runtime_seconds or instance_count")
        job = deploy(*train)["job"]
        deploy("release", "--job", job)
        deploy("smoke")
        again = [step for step in deploy("apply")["steps"] if step["action"] != "keep"]
        if again:
            raise Failed(f"a second apply wanted to write: {again}")
        return ["planned", "applied", "trained", "released", "checked", "nothing left to write"]
    finally:
        deploy("destroy", "--yes", "--delete-data")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A stage's whole life on a real account.")
    parser.add_argument("--stage", required=True, help="a stage of its own, in a region and an account where it may cost money")
    parser.add_argument("--photos", type=Path, required=True, help="a small folder of labelled photos")
    parser.add_argument(
        "--cap", type=float, required=True, help="dollars: refuse a stage of which a month, and a training job, could cost more"
    )
    parser.add_argument("--hours", type=float, default=3.0, help="stop and destroy what is not done by then (3)")
    args = parser.parse_args(argv)
    deadline = time.monotonic() + args.hours * 3600

    def deploy(*words: str) -> dict[str, Any]:
        print("→", *words, flush=True)
        left = deadline - time.monotonic()
        destroying = words[0] == "destroy"  # takes the time it needs
        if left <= 0 and not destroying:
            raise Failed(f"{args.hours:g} hours have passed before {words[0]}")
        command = [sys.executable, "-m", "deploy", *words, "--stage", args.stage, "--json"]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=None if destroying else left)
        except subprocess.TimeoutExpired:
            raise Failed(f"{words[0]} was not done after {args.hours:g} hours") from None
        if done.returncode:
            raise Failed(f"{words[0]} ended with {done.returncode}")
        return dict(json.loads(done.stdout)) if done.stdout.startswith("{") else {}

    try:
        print(", ".join(life(deploy, args.photos, args.cap)))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
