"""What every target of make has in common."""

import os
import subprocess

from scripts.machine import ROOT


def test_compiled_modules_are_kept_whatever_the_environment_says() -> None:
    """Without them the start of a rank costs 6 s of CPU instead of 2."""
    probe = 'probe: ; @echo "[$${PYTHONDONTWRITEBYTECODE-}]"'
    environ = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["make", "--no-print-directory", "--eval", probe, "probe"], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
