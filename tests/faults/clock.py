"""A wall clock that jumps under real processes, as when NTP or a person sets it: `clock.c` between them and the C library."""

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
MISSING = "no C compiler (cc) is installed: clocks cannot be made to jump"


def available() -> bool:
    return shutil.which("cc") is not None


class Clock:
    """Processes started with `environ` see the time that `jump` sets."""

    def __init__(self, folder: Path) -> None:
        """Raises RuntimeError where there is no compiler."""
        if not available():
            raise RuntimeError(MISSING)
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._offset, library = folder / "clock", 0, folder / "clock.so"
        self._write()
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        self.environ = {"LD_PRELOAD": str(library), "KENNEL_CLOCK_FILE": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Ahead, or back; every process sees it at once."""
        self._offset += seconds
        self._write()

    def _write(self) -> None:
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("q", self._offset))
