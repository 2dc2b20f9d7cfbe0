"""gunicorn as the HTTP side: its settings, its hooks, and the application object it runs."""

import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from containers.core import logs
from containers.serve import child, process
from containers.serve.config import ServeConfig
from containers.serve.front_worker import FrontWorker
from containers.serve.sizing import Sizing


class JsonLogger(Logger):  # type: ignore[misc]
    """gunicorn's messages go where ours go; it writes no access log, the application writes a better one."""

    def setup(self, cfg: Any) -> None:
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        self.error_log.setLevel(max(logging.WARNING, logging.getLogger().level))


class _Arbiter(Arbiter):  # type: ignore[misc]
    def stop(self, graceful: bool = True) -> None:
        """Close the port for all fronts at once. They only stop accepting, and clients would hang in the kernel's queue."""
        for listener in self.LISTENERS:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RD)
        super().stop(graceful)


class Fronts(BaseApplication):  # type: ignore[misc]
    """`build(number)` makes the application of front `number`; a replaced front gets the number of the one that died."""

    def __init__(self, config: ServeConfig, sizing: Sizing, listener: socket.socket, build: Callable[[int], Flask]) -> None:
        self._settings = settings(config, sizing, listener)
        self._build = build
        self._free = list(range(sizing.fronts))
        self._number = -1
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)
        self.cfg.set("pre_fork", self._pre_fork)
        self.cfg.set("post_fork", self._post_fork)
        self.cfg.set("child_exit", self._child_exit)

    def run(self) -> None:
        _Arbiter(self).run()

    def load(self) -> Flask:
        return self._build(self._number)

    def _pre_fork(self, server: Arbiter, worker: Worker) -> None:
        self._free.sort()
        worker.front_number = self._number = self._free.pop(0)

    def _post_fork(self, server: Arbiter, worker: Worker) -> None:
        name = f"front-{worker.front_number}"
        process.become(f"kennel-{name}", worker.ppid)
        logs.configure(process=name, **child.context())

    def _child_exit(self, server: Arbiter, worker: Worker) -> None:
        self._free.append(worker.front_number)


def settings(config: ServeConfig, sizing: Sizing, listener: socket.socket) -> dict[str, Any]:
    """gunicorn's own settings (docs.gunicorn.org/en/stable/settings.html)."""
    in_memory = Path("/dev/shm")  # noqa: S108 - the root may be read-only, and a disk would stall the heartbeat
    return {
        "bind": f"fd://{listener.fileno()}",
        "workers": sizing.fronts,
        "worker_class": FrontWorker,
        "threads": sizing.request_threads,
        "worker_connections": 4096,
        "backlog": 2048,
        "keepalive": 75,
        "timeout": 30,  # of the worker's main loop, which never computes: a front that hangs is replaced
        "graceful_timeout": int(config.graceful_timeout_seconds),
        "worker_tmp_dir": str(in_memory) if os.access(in_memory, os.W_OK) else None,
        "logger_class": JsonLogger,
        "limit_request_line": 4094,
        "limit_request_fields": 64,
        "control_socket_disable": True,
    }
