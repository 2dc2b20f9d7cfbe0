"""What torch.compile would bring on a GPU, and what it costs: the bare loop over tensors with it and without.

Training does not offer it, and the images have no triton (docs/decisions/002): this says whether they should. It runs in a
process of its own, which is ended where compiling takes too long.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.training.gpu import tensors
from benchmarks.training.measure import interleaved
from benchmarks.training.sides import Ours, workspace

SECONDS = 70.0
"""For everything. ResNet-50 takes about a minute to compile on a few cores."""


def possible() -> bool:
    """Compiling for a GPU takes triton."""
    return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None


def in_a_process(rounds: int, seconds: float = SECONDS, **arguments: Any) -> dict[str, Any] | None:
    """What `over_eager` returns, None where it took too long. Raises RuntimeError with its last words where it failed."""
    command = [sys.executable, "-m", "benchmarks.training.compiled", json.dumps({"rounds": rounds, **arguments})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the compiler has processes of its own
        process.communicate()
        return None
    if process.returncode:
        raise RuntimeError(f"measuring torch.compile ended with {process.returncode}: {err.strip()[-1500:]}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def over_eager(
    rounds: int, device: str = "cuda", *, batch: int = 64, steps: int = 30, backend: str = "inductor", **config: Any
) -> dict[str, Any]:
    """`ratio`: how many times as fast a step is compiled; `compile_seconds`: what the first step takes longer."""
    with workspace(1) as (root, index):
        ours = Ours(root, index, device, memory=True, batch_size=batch, **config)
        compiled = tensors(ours, steps, make=lambda net: torch.compile(net, backend=backend))
        began = time.perf_counter()
        compiled()
        first = time.perf_counter() - began
        found = interleaved({"compiled": compiled, "eager": tensors(ours, steps)}, rounds)
    again = min(found.wall["compiled"])
    return {
        "ratio": found.ratio("eager", "compiled"),
        "spread": found.spread,
        "compile_seconds": first - again,
        "compiled": batch * steps / again,
        "eager": batch * steps / min(found.wall["eager"]),
        "device": f"{ours.run.accelerator.name}, {ours.run.precision}",
        "raw": found.raw,
    }


if __name__ == "__main__":
    print(json.dumps(over_eager(**json.loads(sys.argv[1]))))
