"""make audit: known vulnerabilities of everything the locks pin.

pip-audit without --strict is green where it reaches no advisory and has checked nothing. Here a package that could not be
checked is a failure, and so is a pip-audit that ends without an answer; where no package could be checked for want of a network
to the advisories, that is said, and only CI goes on.
"""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from scripts.machine import ROOT

LOCKS = ("all", "local", "tools", "compose", "native", "pretrained", "compile")  # the others hold nothing that all does not
ALLOWED = ROOT / "requirements" / "audit-allow.txt"
_NO_CONNECTION = re.compile(
    r"your network may be blocking this service"  # pip-audit's own last word (_cli.py)
    r"|^(requests|urllib3)\.exceptions\.\w*(Connect|Timeout|Proxy|SSL|MaxRetry|Protocol)\w*:"
)
"""In the last line of what pip-audit says."""


def read_allowed(text: str, today: date) -> tuple[list[str], list[str]]:
    """(advisories that are allowed today, entries that have run out); a line is `ID YYYY-MM-DD reason`."""
    allowed: list[str] = []
    expired: list[str] = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            advisory, until, _reason = line.split(maxsplit=2)
            (allowed if date.fromisoformat(until) >= today else expired).append(advisory)
    return allowed, expired


def verdict(dependencies: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """(exit code, lines): 0 all checked and clean, 1 something found or unchecked, 3 none is known where it was looked up."""
    if not dependencies:
        return 1, ["pip-audit found no package in it: nothing was checked"]
    unchecked = [package for package in dependencies if "skip_reason" in package]
    if len(unchecked) == len(dependencies):
        return 3, [f"no advisory could be reached ({unchecked[0]['skip_reason']}): nothing was checked"]
    lines = [f"{package['name']}: could not be checked: {package['skip_reason']}" for package in unchecked]
    for package in dependencies:
        for found in package.get("vulns", []):
            fixed = ", ".join(found["fix_versions"]) or "no release yet"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    return (1 if lines else 0), lines


def audit(lock: Path, allowed: list[str]) -> tuple[int, list[str]]:
    ignored = [argument for advisory in allowed for argument in ("--ignore-vuln", advisory)]
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "-f", "json", "--progress-spinner", "off"]
    done = subprocess.run([*command, "-r", lock, *ignored], check=False, capture_output=True, text=True)
    return answer(done.stdout, done.stderr)


def answer(stdout: str, stderr: str) -> tuple[int, list[str]]:
    """`verdict` of what pip-audit printed; without a list of packages 3 where it could not connect, else 1."""
    try:
        return verdict(json.loads(stdout)["dependencies"])
    except (ValueError, KeyError, TypeError):
        reason = (stderr.strip().splitlines() or ["no message"])[-1]
        return (3 if _NO_CONNECTION.search(reason) else 1), [f"pip-audit could not check anything: {reason}"]


def main() -> int:
    allowed, expired = read_allowed(ALLOWED.read_text(), datetime.now(UTC).date())
    codes = [1 for _ in expired]
    for advisory in expired:
        print(f"{ALLOWED.name}: {advisory} was allowed for a time that is over: update the package, or decide anew")
    for name in LOCKS:
        code, lines = audit(ROOT / "requirements" / f"{name}.lock", allowed)
        print("\n  ".join([f"{name}.lock: {'clean' if code == 0 else f'{len(lines)} to look at'}", *lines]))
        codes.append(code)
    if 1 in codes:
        return 1
    if 3 in codes:
        print("audit SKIPPED: run it where the advisories can be reached")
        return 0 if os.environ.get("CI") == "true" else 3
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
