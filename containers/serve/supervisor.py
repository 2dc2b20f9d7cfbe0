"""PID 1 of the server: makes what is shared, starts the model processes and gunicorn, and keeps them running.

It forks without exec, so it stays single-threaded and imports neither torch nor an engine. A model process that died or is
stuck is replaced; one that cannot load ends the server with the reason. On SIGTERM `/ping` says 503 for a moment, then gunicorn
answers what was accepted and stops, then everything ends with exit code 0.
"""

import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from containers.core import logs, manifest
from containers.core.errors import ConfigError
from containers.serve import child, model_process, models, process, wsgi
from containers.serve.config import ServeConfig
from containers.serve.gunicorn_conf import Fronts
from containers.serve.health import Health
from containers.serve.model_process import Assignment
from containers.serve.signals import Signals
from containers.serve.sizing import Sizing
from containers.serve.slots import Slots

log = logs.get(__name__)

_LAME_DUCK_SECONDS = 1.0  # between the first failing ping and the closed port, for load balancers to notice
_TICK_SECONDS = 0.5
_LOAD_ATTEMPTS = 3  # of a model process that dies without saying why while it loads
_RETRY_SECONDS = 10.0  # a replacement that cannot load, while others serve
_EXIT_KILLED = 1


@dataclass
class _ModelProcess:
    """`pid` 0: not running, to be started at `start_at` (time.monotonic()). Not ready at `ready_by`: stuck while it loads."""

    job: Assignment
    pid: int = 0
    start_at: float = 0.0
    ready_by: float = 0.0
    failed_loads: int = 0


class Supervisor:
    def __init__(self, config: ServeConfig, sizing: Sizing, listener: socket.socket, signals: Signals) -> None:
        self._config, self._sizing, self._listener, self._signals = config, sizing, listener, signals
        self._manifest = None if config.multi_model else manifest.read(config.model_dir)
        shape = self._manifest.preprocessing.shape if self._manifest else (1, 1, 3)
        self._slots = Slots(sizing.slots, shape, len(self._manifest.class_names) if self._manifest else 1)
        self._health = Health(len(sizing.devices))
        self._models = [
            _ModelProcess(
                Assignment(process=number, model_dir=config.model_dir, device=device, threads=sizing.threads_per_process)
            )
            for number, device in enumerate(sizing.devices)
        ]
        self._gunicorn = 0
        self._parent = os.environ.get(child.PARENT)
        self._stop_at: float | None = None  # when gunicorn is told to stop, once we were

    def run(self) -> int:
        """Serve until told to stop; returns the exit code of the server."""
        self._start_models()
        self._gunicorn = self._fork("kennel-http", self._serve_http)
        self._listener.close()
        try:
            while True:
                if self._signals.wait(_TICK_SECONDS) & {signal.SIGTERM, signal.SIGINT}:
                    self._drain()
                if self._parent not in (None, str(os.getppid())):  # a model of a multi-model server that is gone
                    return _EXIT_KILLED
                for pid, status in _ended():
                    code = os.waitstatus_to_exitcode(status)
                    if pid == self._gunicorn:
                        return self._gunicorn_ended(code)
                    for model in self._models:
                        if model.pid == pid and (verdict := self._model_ended(model, code)) is not None:
                            return verdict
                self._kill_stuck()
                self._start_models()
                self._stop_gunicorn()
        finally:
            self._kill_all()

    def _start_models(self) -> None:
        for model in self._models:
            if not model.pid and time.monotonic() >= model.start_at:
                self._health.explain(model.job.process, "")  # what the one before said
                model.ready_by = time.monotonic() + self._config.load_timeout_seconds
                model.pid = self._fork(f"kennel-model-{model.job.process}", partial(self._serve_model, model.job))

    def _serve_model(self, job: Assignment) -> int:
        self._listener.close()
        return model_process.run(job, self._config, self._slots, self._health)

    def _serve_http(self) -> int:
        logs.configure(process="gunicorn", **child.context())

        if self._manifest is None:
            build = partial(models.build, config=self._config, sizing=self._sizing, health=self._health)
        else:
            build = partial(
                wsgi.build,
                config=self._config,
                manifest=self._manifest,
                sizing=self._sizing,
                slots=self._slots,
                health=self._health,
            )
        Fronts(self._config, self._sizing, self._listener, build).run()
        return 0

    def _gunicorn_ended(self, code: int) -> int:
        if self._stop_at is not None:
            log.info("stopped", extra={"unanswered": self._slots.in_flight()})
            return 0
        log.error("gunicorn ended by itself", extra={"code": code})
        return _EXIT_KILLED

    def _model_ended(self, model: _ModelProcess, code: int) -> int | None:
        """Arrange for a replacement, or return the exit code with which the server gives up."""
        number, model.pid = model.job.process, 0
        was_ready = self._health.is_ready(number)
        self._health.gone(number)
        lost = self._slots.recover(number)
        if was_ready:
            log.error("model process ended: replacing it", extra={"model": number, "code": code, "photos_lost": lost})
            model.failed_loads = 0
            return None
        model.failed_loads += 1
        said = self._health.explanation(number)
        reason = said or _unexplained(code)
        if self._health.serving(self._config.stuck_after_seconds):
            log.error("replacement cannot load: trying again", extra={"model": number, "reason": reason})
            model.start_at = time.monotonic() + _RETRY_SECONDS
            return None
        if code > 0 or model.failed_loads >= _LOAD_ATTEMPTS:
            sys.stderr.write(f"kennel serve: {reason}\n")
            return code if code > 0 else model_process.EXIT_NO_MEMORY if code == -signal.SIGKILL and not said else _EXIT_KILLED
        log.error("model process was killed while it loaded: trying again", extra={"model": number, "reason": reason})
        return None

    def _kill_stuck(self) -> None:
        for model in self._models:
            number = model.job.process
            if model.pid and self._health.is_stuck(number, self._config.stuck_after_seconds):
                log.error("model process is stuck: killing it", extra={"model": number})
                os.kill(model.pid, signal.SIGKILL)
            elif model.pid and time.monotonic() > model.ready_by and not self._health.is_ready(number):
                self._end_load(model)

    def _end_load(self, model: _ModelProcess) -> None:
        number, limit, model.ready_by = model.job.process, self._config.load_timeout_seconds, math.inf
        log.error("model process does not finish loading: killing it", extra={"model": number, "limit_s": limit})
        self._health.explain(
            number, f"the model was not ready within {limit:g} s: raise SERVE_LOAD_TIMEOUT_SECONDS, or use a faster instance"
        )
        os.kill(model.pid, signal.SIGKILL)

    def _drain(self) -> None:
        if self._stop_at is None:
            log.info("asked to stop", extra={"in_flight": self._slots.in_flight()})
            self._health.drain()
            self._stop_at = time.monotonic() + _LAME_DUCK_SECONDS

    def _stop_gunicorn(self) -> None:
        """gunicorn stops accepting, answers what it accepted, and kills its fronts after the graceful timeout."""
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            os.kill(self._gunicorn, signal.SIGTERM)
            self._stop_at = float("inf")

    def _fork(self, name: str, work: Callable[[], int]) -> int:
        """Run `work` in a child whose exit code it returns; the child dies with us, and Ctrl-C reaches only us."""
        _flush()
        parent = os.getpid()
        if pid := os.fork():
            return pid
        code = 1
        try:
            self._signals.reset()
            os.setpgid(0, 0)
            process.become(name, parent)
            code = work()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            log.exception("process failed")
        finally:
            try:
                _flush()
            finally:  # whatever happens: else a child would go on as the supervisor, and kill its siblings
                os._exit(code)

    def _kill_all(self) -> None:
        for pid in [self._gunicorn, *(model.pid for model in self._models)]:
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def _flush() -> None:
    """What was printed goes out once, not again from every child. Nobody may read it any more: that is no reason to end."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()


def _unexplained(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the model process was killed while it loaded: probably not enough memory; use a larger instance"
    return f"the model process ended with code {code} while it loaded; the log above has the reason"


def _ended() -> Iterator[tuple[int, int]]:
    """(pid, wait status) of every child that ended, orphans that were handed to PID 1 included."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def listen(host: str, port: int) -> socket.socket:
    """The listening socket. Raises ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror}): stop what uses it, or pass --port (SERVE_PORT)"
        ) from None
