"""A program started by a Python that has not its packages says so in one line. Standard library only."""

import sys
from importlib.util import find_spec


def insist(program: str, *packages: str) -> None:
    """Before anything of `packages` is imported. Ends the process with exit code 2 where one of them is not there."""
    if missing := [name for name in packages if find_spec(name) is None]:
        sys.stderr.write(
            f"{program}: {sys.executable} has no {', '.join(missing)}: run `make setup` once in Kennel's folder, then "
            f"`. .venv/bin/activate` in this terminal and the same command again (or .venv/bin/{program} …)\n"
        )
        raise SystemExit(2)
