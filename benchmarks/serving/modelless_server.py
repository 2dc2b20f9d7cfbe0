"""Kennel's server with an engine that computes nothing: what HTTP, decoding and the way to the model and back cost."""

import sys
from pathlib import Path

import numpy as np

from containers.core.manifest import Manifest
from containers.serve import engines
from containers.serve.__main__ import main


def _nothing(model_dir: Path, manifest: Manifest, name: str, device: str, threads: int) -> engines.LoadedEngine:
    golden = np.asarray(manifest.golden.probabilities, np.float32)
    return engines.LoadedEngine(name=name, device=device, tolerance=1.0, run=lambda batch: np.tile(golden, (len(batch), 1)))


engines.PREFERENCE["none"] = engines.Kind(load=_nothing, devices=("cpu",), needs="numpy", exported=False)

if __name__ == "__main__":
    sys.exit(main())
