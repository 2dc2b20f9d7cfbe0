from pathlib import Path

import pytest

from containers.core import build_native


@pytest.mark.parametrize(
    ("named", "tried"), [("no-such-compiler -O2", "no-such-compiler"), ("", "cc"), (" ", "cc"), (None, "cc")]
)
def test_without_a_compiler_it_says_which_one_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str | None, tried: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if named is not None:
        monkeypatch.setenv("CC", named)
    assert build_native.build(build_native.SOURCE, tmp_path / "library.so") == f"there is no C compiler {tried!r}"
