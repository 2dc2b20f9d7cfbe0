"""How a multi-model server starts the server of one model: the program, and what its environment says. Imports nothing."""

PROGRAM = "containers.serve"
"""What it runs (python -m)."""

LISTENER, PARENT = "KENNEL_LISTENER_FD", "KENNEL_PARENT_PID"
"""Environment: the socket it shall use, and the process without which it shall end."""
