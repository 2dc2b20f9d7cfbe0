"""Turn what waits in the slots into batches for a callable. It never waits for photos that are not there: a batch forms only
because the model was busy, so an idle server adds no delay.
"""

from collections.abc import Callable

import numpy as np

from containers.core import logs
from containers.serve import telemetry
from containers.serve.errors import OutOfMemory
from containers.serve.health import Health
from containers.serve.predictor import PoisonedDevice
from containers.serve.slots import Slots, State

log = logs.get(__name__)

IDLE_SECONDS = 1.0  # an idle process shows a sign of life this often


def run(
    slots: Slots, health: Health, process: int, predict: Callable[[np.ndarray], np.ndarray], max_batch: Callable[[], int]
) -> None:
    """Serve batches for ever. `predict`: uint8 (N, height, width, 3) → float32 (N, classes), N up to what `max_batch` says now:
    less once memory has run out, so that nobody takes what another process could compute meanwhile.

    A failed batch fails the photos in it and no other; where memory ran out in the middle of it, those before are answered.
    Raises PoisonedDevice, after failing the batch.
    """
    while True:
        health.beat(process)
        batch = slots.take(process, max_batch(), IDLE_SECONDS)
        if batch:
            health.beat(process)
            _answer(slots, batch, predict)


def _answer(slots: Slots, batch: list[int], predict: Callable[[np.ndarray], np.ndarray]) -> None:
    answered, otherwise = 0, State.FAILED
    try:
        with telemetry.forward(len(batch)):
            slots.probabilities[batch] = predict(slots.images[batch])
        answered = len(batch)
    except OutOfMemory as error:
        log.exception("no memory for one photo", extra={"photos": len(batch), "answered": len(error.answered)})
        for slot, probabilities in zip(batch, error.answered, strict=False):
            slots.probabilities[slot] = probabilities
        answered, otherwise = len(error.answered), State.NO_MEMORY
    except PoisonedDevice:
        log.exception("the device is unusable: this process ends")
        raise
    except Exception:
        log.exception("batch failed", extra={"photos": len(batch)})
    finally:
        for position, slot in enumerate(batch):
            slots.finish(slot, State.ANSWERED if position < answered else otherwise)
