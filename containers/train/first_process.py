"""What a PID 1 owes: signals are heard and passed on, orphans are reaped, nothing that a child leaves behind lives on."""

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from types import FrameType

import psutil

from containers.core import logs
from containers.train import failure, own_process

log = logs.get(__name__)

STOP_SECONDS = 90.0
"""What workers have from the stop request on; SageMaker kills everything after 120 (StopTrainingJob)."""
_MARGIN_SECONDS = 15.0
"""What the launcher has beyond that, to kill workers and say so."""
LEFTOVER_SECONDS = 20.0


class FirstProcess:
    """Runs one child at a time and is ready for signals from the moment it exists (main thread only)."""

    def __init__(self, stop_seconds: float = STOP_SECONDS) -> None:
        self.stop_requested_at: float | None = None
        self.stop_file: Path | None = None
        self._stop_seconds = stop_seconds + _MARGIN_SECONDS
        self._child: int | None = None
        self._passed_on = True
        self._signal: signal.Signals | None = None
        self._unwritten: OSError | None = None
        self._wake, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, however empty, is what makes the wake-up pipe readable
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._stop)
        # what came since the front door blocked them comes now; children must not inherit it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Logs nothing: it may have interrupted a line that is being written."""
        once_more = self.stop_requested_at is not None and number == signal.SIGINT  # somebody sits there and waits
        if self.stop_requested_at is None:
            self.stop_requested_at = time.monotonic()
            self._signal = signal.Signals(number)
        self.announce_stop()
        if self._child is not None and (self._passed_on or once_more):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGTERM)

    def announce_stop(self) -> None:
        """Create the stop file, where one is known and a stop was requested."""
        if self.stop_file is not None and self.stop_requested_at is not None:
            try:
                self.stop_file.touch()
            except OSError as error:  # a full disk, or somebody cleans up TMPDIR; the signal is passed on all the same
                self._unwritten = error

    def run(self, command: list[str], error_file: Path, *, last_seconds: float | None = None) -> int:
        """Run `command` to its end and return its exit code (negative: a signal's number), reaping every orphan meanwhile.

        It leads a session of its own, so that Ctrl-C reaches it through us only. Killed a while after a stop request; with
        `last_seconds` it is what remains to be done after one, hears of none but Ctrl-C, and is killed after so long.
        """
        environ = os.environ | {failure.ERROR_FILE_VARIABLE: str(error_file), own_process.PARENT_VARIABLE: str(os.getpid())}
        began, self._passed_on = time.monotonic(), last_seconds is None
        self._child = os.posix_spawn(command[0], command, environ, setsid=True)
        if self.stop_requested_at is not None and self._passed_on:  # it came while the child was being started
            os.kill(self._child, signal.SIGTERM)
        try:
            while (code := self._reap()) is None:
                wait = None
                if self.stop_requested_at is not None:
                    since, seconds = self.stop_requested_at, self._stop_seconds
                    if last_seconds is not None:
                        since, seconds = began, last_seconds
                    wait = since + seconds - time.monotonic()
                    if wait <= 0:
                        log.warning("killing what did not stop in time", extra={"seconds": seconds})
                        os.kill(self._child, signal.SIGKILL)
                        wait = 1.0
                select.select([self._wake], [], [], wait)
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                if self._signal is not None:
                    log.info("stop requested", extra={"signal": self._signal.name})
                    self._signal = None
                    if self._unwritten is not None:
                        log.warning("the stop file cannot be written", extra={"reason": str(self._unwritten)})
        finally:
            self._child = None
        return code

    def _reap(self) -> int | None:
        """Collect every child that has ended; the exit code of the one that matters, None while it runs."""
        code = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if pid == 0:
                return code
            if pid == self._child:
                code = os.waitstatus_to_exitcode(status)

    def end_leftovers(self, seconds: float = LEFTOVER_SECONDS) -> None:
        """Stop, then kill, what a dead child left behind: two runs must never write the same checkpoints."""
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(left, timeout=seconds)
        for process in alive:
            log.warning("killing a leftover process", extra={"pid": process.pid})
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
        self._reap()
