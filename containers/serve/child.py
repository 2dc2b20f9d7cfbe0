"""How a multi-model server starts the server of one model: the program, and what its environment says. Imports nothing."""

PROGRAM = "containers.serve"
"""What it runs (python -m)."""

LISTENER, PARENT, METRICS = "KENNEL_LISTENER_FD", "KENNEL_PARENT_PID", "KENNEL_METRICS_FOLDER"
"""Environment: the socket it shall use, the process without which it shall end, the folder that it makes for its counters."""
