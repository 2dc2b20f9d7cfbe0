"""The real server with the real engine on a GPU, and faults that only a GPU has: CUDA's own "out of memory", a kernel that
asserts, work that no CUDA graph can hold. A script says which. Run as `python -m tests.support.gpu_server`.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from containers.core.manifest import Manifest
from containers.serve import child, engines
from containers.serve.__main__ import main
from tests.support.script_file import ScriptFile

VARIABLE = "KENNEL_TEST_GPU_SCRIPT"


@dataclass
class Script(ScriptFile):
    """`limit_mb`: of all memory that torch may take, read when the model is loaded; 0: no limit.

    `room_mb`: what a batch may take beyond what torch holds already; -1: no limit. `each_mb`: what every photo takes besides
    the model's own. `broken`: a kernel asserts before the next batch. `waits`: the forward pass waits for the GPU (read at
    load). `may_load`: whether a model process that starts gets any further.
    """

    limit_mb: int = 0
    room_mb: int = -1
    each_mb: int = 0
    broken: bool = False
    waits: bool = False
    may_load: bool = True


def _script() -> Script:
    return Script.read(Path(os.environ[VARIABLE]))


def _load(model_dir: Path, manifest: Manifest, name: str, device: str, threads: int) -> engines.LoadedEngine:
    while not (script := _script()).may_load:
        time.sleep(0.02)
    import torch

    from containers.serve.engines import eager

    total = torch.cuda.get_device_properties(0).total_memory

    def allow(megabytes: float) -> None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, megabytes * 2**20 / total))

    if script.limit_mb:
        allow(script.limit_mb)
    if script.waits:
        eager._forward = _waiting(eager._forward)
    engine = eager.load(model_dir, manifest, device=device, threads=threads)
    room = -1

    def run(batch: np.ndarray) -> np.ndarray:
        nonlocal room
        script = _script()
        if script.room_mb != room:
            room = script.room_mb
            torch.cuda.empty_cache()
            allow(torch.cuda.memory_reserved() / 2**20 + room if room >= 0 else total / 2**20)
        if script.broken:
            torch.zeros(1, device=engine.device)[torch.tensor([7], device=engine.device)]  # seen by whoever asks the GPU next
        taken = torch.empty(len(batch) * script.each_mb * 2**20, dtype=torch.uint8, device=engine.device)
        answers = engine.run(batch)
        del taken
        return answers

    return dataclasses.replace(engine, run=run)


def _waiting(make: Callable) -> Callable:
    def made(*arguments):
        forward = make(*arguments)

        def waits(pixels):
            answers = forward(pixels)
            answers.sum().item()
            return answers

        return waits

    return made


if __name__ == "__main__":
    child.PROGRAM = "tests.support.gpu_server"
    engines.PREFERENCE["eager"] = engines.Kind(load=_load, devices=("cuda",), needs="torch", exported=False)
    sys.exit(main())
