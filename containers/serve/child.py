"""How a multi-model server starts the server of one model: the program, and its environment. Imports nothing heavy."""

import math
import os
from typing import Any

PROGRAM = "containers.serve"
"""What it runs (python -m)."""

LISTENER, PARENT, METRICS = "KENNEL_LISTENER_FD", "KENNEL_PARENT_PID", "KENNEL_METRICS_FOLDER"
"""Environment: the socket it shall use, the process without which it shall end, the folder that it makes for its counters."""
NAME = "KENNEL_MODEL_NAME"
"""Environment: of the model."""

DEADLINE = "X-Kennel-Deadline"
"""Header of what is passed on to it: until when the caller waits (time.monotonic(), the same for all processes of a host)."""


def deadline(header: str | None) -> float:
    """What DEADLINE says. Infinite for a server that is nobody's child: there anybody might have sent it."""
    return float(header) if header and LISTENER in os.environ else math.inf


def context() -> dict[str, Any]:
    """What every log line of this process says of the model it serves, where that is one of several."""
    return {"model_name": os.environ[NAME]} if NAME in os.environ else {}
