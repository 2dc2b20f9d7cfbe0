"""Ranks as processes that import nothing: importing torch takes ten seconds on some hosts, and forking who has it none.

They come from a fork server, which has never touched the GPU; who forks after that gives its children one that does not work.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from containers.train import failure, own_process, worker
from containers.train.job import TrainingJob
from tests.support.training import DEADLINE

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["containers.train.session", "containers.train.report", "torch.utils.tensorboard"])


def _body(program: str, environment: dict[str, str], log_file: Path, job_file: Path) -> None:
    os.setsid()
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(environment)
    torch.set_num_threads(1)
    exec(program, {})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    code = own_process.guarded(lambda: worker.main(job_file))
    sys.stdout.flush()
    os._exit(code)


class Rank:
    """One rank of `job`; `program` runs in it before anything else. The same job again is that job, started again."""

    def __init__(self, job: TrainingJob, program: str = "", *, rank: int = 0, world_size: int = 1, port: int = 0) -> None:
        self.job = job
        folder = job.paths.output_dir
        folder.mkdir(parents=True, exist_ok=True)
        self._log, self._error = folder / f"rank{rank}.log", folder / f"rank{rank}.error.json"
        self._log.write_text("")
        self._error.unlink(missing_ok=True)
        environment = {
            "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
            failure.ERROR_FILE_VARIABLE: str(self._error),
        }  # fmt: skip
        self.process: BaseProcess = _SERVER.Process(target=_body, args=(program, environment, self._log, job.paths.job_file))
        self.process.start()

    @property
    def out(self) -> str:
        return self._log.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.out.splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line.get("event") == event]

    def wait_for(self, event: str) -> "Rank":
        deadline = time.monotonic() + DEADLINE
        while not self.logged(event):
            assert self.process.is_alive(), self.out
            assert time.monotonic() < deadline, self.out
            time.sleep(0.01)
        return self

    def signal(self, number: signal.Signals) -> "Rank":
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        return self

    def end(self, expect: int = 0) -> "Rank":
        """Wait for the end of it."""
        try:
            self.process.join(DEADLINE)
            assert self.process.exitcode == expect, f"{self.process.exitcode}\n{self.out}"
        finally:
            self.process.kill()
            self.process.join()
        return self

    @property
    def failure(self) -> str:
        """What the failure file begins with where this rank is the first cause."""
        return failure.of_process(self.process.exitcode or 0, self._error, rank=0).text()
