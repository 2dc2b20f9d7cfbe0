"""The real server with one more engine, which does what a script says: for what no machine here can do on demand (CUDA memory
that runs out, a broken CUDA context, a model of a known speed, several GPUs). Run as `python -m tests.support.scripted_server`.

The engine answers every photo with the golden probabilities, so it passes the check at start. It never imports torch.
"""

import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from containers.core import host
from containers.core.manifest import Manifest
from containers.serve import child, engines
from containers.serve.__main__ import main
from tests.support.script_file import ScriptFile

VARIABLE = "KENNEL_TEST_SCRIPT"
GPUS = "KENNEL_TEST_GPUS"
"""Environment: the folder whose device files are the GPUs of this host, in place of /dev."""


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@dataclass
class Script(ScriptFile):
    """`room`: photos that fit into the device's memory, -1 where the model does not; `lasts`: photos that are computed before
    nothing fits any more; `full`: what the driver or a library says then, empty where it is torch's own error.
    `seconds`: of one batch, which ends sooner where that is changed meanwhile. `broken`: the device's context; `said`: what a
    library says then that names only itself, empty where it is CUDA's own error. `wrong`: whether it takes one class for
    another. `may_load`: whether a model process that starts gets any further. `on`: the only device that all this is true of,
    empty where it is true of each.
    """

    room: int = 1000
    lasts: int = 1_000_000
    full: str = ""
    seconds: float = 0.0
    broken: bool = False
    said: str = ""
    wrong: bool = False
    may_load: bool = True
    on: str = ""


def _script(device: str) -> Script:
    script = Script.read(Path(os.environ[VARIABLE]))
    return script if script.on in ("", device) else Script()


def _no_memory(script: Script) -> RuntimeError:
    return RuntimeError(script.full) if script.full else OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _reported_late(device: str, error: RuntimeError) -> RuntimeError | None:
    return RuntimeError("CUDA error: an illegal memory access was encountered") if _script(device).broken else None


def _load(model_dir: Path, manifest: Manifest, name: str, device: str, threads: int) -> engines.LoadedEngine:
    while not (script := _script(device)).may_load:
        time.sleep(0.02)
    if script.room < 0:
        raise _no_memory(script)
    answer = np.asarray(manifest.golden.probabilities, np.float32)
    batches = Path(os.environ[VARIABLE]).with_suffix(".batches").open("a", buffering=1)
    computed = 0

    def run(batch: np.ndarray) -> np.ndarray:
        nonlocal computed
        script = _script(device)
        print(device, len(batch), file=batches)
        began = time.monotonic()
        while (left := began + script.seconds - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
            script = _script(device)
        if script.broken:
            raise RuntimeError(script.said or "CUDA error: an illegal memory access was encountered")
        if len(batch) > script.room or computed + len(batch) > script.lasts:
            raise _no_memory(script)
        computed += len(batch)
        return np.tile(np.roll(answer, int(script.wrong)), (len(batch), 1))

    tolerance, late = manifest.golden.tolerance, partial(_reported_late, device)
    return engines.LoadedEngine(name=name, device=device, tolerance=tolerance, run=run, reported_late=late)


def _show_gpus(folder: Path, chosen: str | None) -> None:
    found = host.visible_gpus
    host.visible_gpus = lambda dev=folder, visible=chosen: found(folder, visible)


if __name__ == "__main__":
    child.PROGRAM = "tests.support.scripted_server"
    engines.PREFERENCE["scripted"] = engines.Kind(load=_load, devices=("cpu", "cuda"), needs="numpy", exported=False)
    if GPUS in os.environ:
        _show_gpus(Path(os.environ[GPUS]), os.environ.get("CUDA_VISIBLE_DEVICES"))
    sys.exit(main())
