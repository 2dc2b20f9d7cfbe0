"""What holds for make's targets together."""

import os
import subprocess

from scripts.machine import ROOT


def make(*arguments: str, **environ: str) -> list[str]:
    """The lines it prints."""
    outer = ("MAKE", "MFLAGS")  # of the make that may have started these tests
    kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    command = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=kept | environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_compiled_modules_are_kept_whatever_the_environment_says() -> None:
    """Without them the start of a rank costs 6 s of CPU instead of 2."""
    probe = 'probe: ; @echo "[$${PYTHONDONTWRITEBYTECODE-}]"'
    assert make("--eval", probe, "probe", PYTHONDONTWRITEBYTECODE="1") == ["[]"]


def test_what_check_does_is_in_lint_and_in_test_which_are_what_ci_runs() -> None:
    *before, tests = make("--dry-run", "check")
    assert before == make("--dry-run", "lint")
    assert tests.endswith(
        "pytest tests/unit tests/contract -m 'not slow and not docker' -q -n 2"
    )  # make test: all `not docker`
    ci = (ROOT / ".ci" / "run").read_text()
    assert [target for target in ("lint", "test", "audit", "sbom") if f"make --no-print-directory {target} ||" not in ci] == []
