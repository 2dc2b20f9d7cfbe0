"""What a test tells a server of another process to do: a dataclass in a file, replaced whole."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass
class ScriptFile:
    """The fields are those of who inherits."""

    def write(self, path: Path) -> None:
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self)))
        draft.rename(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))
