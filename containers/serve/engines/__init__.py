"""Ways of running the artifact's model. One file each; the table in this file is their order of preference.

An engine is a callable: uint8 (N, crop, crop, 3) → float32 probabilities (N, classes), each row summing to 1. Normalisation,
softmax and calibration are inside. It is built once per model process and called from one thread.
"""

from collections.abc import Callable

import numpy as np

Engine = Callable[[np.ndarray], np.ndarray]
