"""The real server with one more engine, which does what a script says: for what no machine here can do on demand (CUDA memory
that runs out, a broken CUDA context, a model of a known speed). Run as `python -m tests.support.scripted_server`.

The engine answers every photo with the golden probabilities, so it passes the check at start. It never imports torch.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from containers.core.manifest import Manifest
from containers.serve import child, engines
from containers.serve.__main__ import main
from tests.support.script_file import ScriptFile

VARIABLE = "KENNEL_TEST_SCRIPT"


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@dataclass
class Script(ScriptFile):
    """`room`: photos that fit into the device's memory, -1 where the model does not; `lasts`: photos that are computed before
    nothing fits any more; `full`: what the driver or a library says then, empty where it is torch's own error.
    `seconds`: of one batch, which ends sooner where that is changed meanwhile. `broken`: the device's context; `said`: what a
    library says then that names only itself, empty where it is CUDA's own error. `wrong`: whether it takes one class for
    another. `may_load`: whether a model process that starts gets any further.
    """

    room: int = 1000
    lasts: int = 1_000_000
    full: str = ""
    seconds: float = 0.0
    broken: bool = False
    said: str = ""
    wrong: bool = False
    may_load: bool = True


def _script() -> Script:
    return Script.read(Path(os.environ[VARIABLE]))


def _no_memory(script: Script) -> RuntimeError:
    return RuntimeError(script.full) if script.full else OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _reported_late(error: RuntimeError) -> RuntimeError | None:
    return RuntimeError("CUDA error: an illegal memory access was encountered") if _script().broken else None


def _load(model_dir: Path, manifest: Manifest, name: str, device: str, threads: int) -> engines.LoadedEngine:
    while not _script().may_load:
        time.sleep(0.02)
    if _script().room < 0:
        raise _no_memory(_script())
    answer = np.asarray(manifest.golden.probabilities, np.float32)
    sizes = Path(os.environ[VARIABLE]).with_suffix(".sizes").open("a", buffering=1)
    computed = 0

    def run(batch: np.ndarray) -> np.ndarray:
        nonlocal computed
        script = _script()
        print(len(batch), file=sizes)
        began = time.monotonic()
        while (left := began + script.seconds - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
            script = _script()
        if script.broken:
            raise RuntimeError(script.said or "CUDA error: an illegal memory access was encountered")
        if len(batch) > script.room or computed + len(batch) > script.lasts:
            raise _no_memory(script)
        computed += len(batch)
        return np.tile(np.roll(answer, int(script.wrong)), (len(batch), 1))

    tolerance = manifest.golden.tolerance
    return engines.LoadedEngine(name=name, device=device, tolerance=tolerance, run=run, reported_late=_reported_late)


if __name__ == "__main__":
    child.PROGRAM = "tests.support.scripted_server"
    engines.PREFERENCE["scripted"] = engines.Kind(load=_load, devices=("cpu",), needs="numpy", exported=False)
    sys.exit(main())
