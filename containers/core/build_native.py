"""Compile resample.c where there is a C compiler: cc, or what CC names. Standard library only.

    python3 -m containers.core.build_native               what make setup does; without a compiler Pillow does the work
    python3 -m containers.core.build_native --required    fails where it cannot: what the image build does

See docs/decisions/012-native-resampling.md.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("resample.c")
LIBRARY = SOURCE.with_name("_resample.so")
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-s")  # no fused multiply-add: Pillow's has none


def build(source: Path = SOURCE, library: Path = LIBRARY) -> str:
    """Compile `library` unless it is newer than `source`. Returns why it could not be made, empty where it is there."""
    if library.exists() and library.stat().st_mtime >= source.stat().st_mtime:
        return ""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]  # set to nothing is not set
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler {compiler[0]!r}"
    fresh = library.with_name(f"{library.name}.{os.getpid()}")
    command: list[str | Path] = [*compiler, *FLAGS, source, "-o", fresh, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - CC is the builder's own
    if done.returncode:
        fresh.unlink(missing_ok=True)
        return f"{compiler[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    fresh.replace(library)
    return ""


def main() -> int:
    problem = build()
    if problem:
        print(f"native: {problem}; photos will be resized by Pillow", file=sys.stderr)  # noqa: T201 - for who types the command
    return int(bool(problem) and "--required" in sys.argv)


if __name__ == "__main__":
    raise SystemExit(main())
