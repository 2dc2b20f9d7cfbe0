"""What a server costs the machine: its processes are those that carry its tag in their environment."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_TAG = "KENNEL_BENCHMARK_SIDE"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A side's processes, from `start` on. Times in seconds, memory in MB."""

    port: int
    process: subprocess.Popen[bytes]
    tag: str
    startup_seconds: float = 0.0
    children: list[int] = field(default_factory=list)

    def pids(self) -> list[int]:
        wanted = f"{_TAG}={self.tag}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def cpu_seconds(self) -> float:
        """User and system time of its living processes so far."""
        total = 0.0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += (int(fields[11]) + int(fields[12])) / _TICK
        return total

    def pss_mb(self) -> float:
        """Proportional set size: pages that processes share are counted once."""
        total = 0
        for pid in self.pids():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 15
        while self.pids() and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10)


def start(command: Sequence[str], environ: Mapping[str, str], *, port: int, ping: str, cwd: Path, log: Path) -> Server:
    """Start a server and wait until `ping` answers 200. Raises RuntimeError with the end of its log where it does not."""
    tag = uuid.uuid4().hex
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environ, _TAG: tag},
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(port, process, tag)
    while time.perf_counter() - began < 180:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{ping}", timeout=5) as answer:
                if answer.status == 200:
                    server.startup_seconds = time.perf_counter() - began
                    return server
        except (urllib.error.URLError, OSError):
            pass
        if process.poll() is not None:
            break
        time.sleep(0.02)
    server.stop()
    raise RuntimeError(f"{command[0]} did not come up: {log.read_text(errors='replace')[-800:]}")


def busy_seconds() -> float:
    """CPU time that the whole machine has used so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
