"""make sbom: what is in the two images, as CycloneDX 1.5 in build/sbom, and a table of the licences.

Asked of the images themselves, by a few lines of their own Python: no tool is added to them, and what is not installed is
not listed.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from scripts.images import TAGS, version
from scripts.machine import ROOT, Command, Docker, NoDocker, Stop, find_docker

INSIDE = """
import json, subprocess
from importlib.metadata import distributions
def licence(m):
    trove = [c.rsplit(' :: ', 1)[1] for c in m.get_all('Classifier', []) if c.startswith('License ::')]
    short = (m.get('License') or '').strip()
    return m.get('License-Expression') or '; '.join(trove) or (short if 0 < len(short) < 60 else None)
python = [(d.name, d.version, licence(d.metadata)) for d in distributions()]
debian = subprocess.run(['dpkg-query', '-W', '-f', '${Package} ${Version}\\n'], capture_output=True, text=True).stdout
print(json.dumps({'python': python, 'debian': [line.split() for line in debian.splitlines()]}))
"""


def ask(docker: Docker, tag: str) -> dict[str, list[list[str | None]]]:
    """{"python": [[name, version, licence or None], …], "debian": [[name, version], …]}. Raises Stop."""
    command: Command = [docker.cli, "run", "--rm", "--network", "none", tag, "python", "-c", INSIDE]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise Stop(f"{tag} could not be asked: {done.stderr.strip().splitlines()[-1:]}; make images builds it")
    answer: dict[str, list[list[str | None]]] = json.loads(done.stdout)
    return answer


def document(tag: str, contents: dict[str, list[list[str | None]]]) -> dict[str, Any]:
    """A CycloneDX document; the purl types are those of the package-url specification."""
    components: list[dict[str, Any]] = []
    for name, number, licence in sorted(contents["python"], key=str):
        component = {"type": "library", "name": name, "version": number, "purl": f"pkg:pypi/{str(name).lower()}@{number}"}
        components.append(component | ({"licenses": [{"license": {"name": licence}}]} if licence else {}))
    for name, number in sorted(contents["debian"], key=str):
        components.append({"type": "library", "name": name, "version": number, "purl": f"pkg:deb/debian/{name}@{number}"})
    image = {"type": "container", "name": tag.partition(":")[0], "version": version()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": image},
        "components": components,
    }


def main(folder: Path = ROOT / "build" / "sbom") -> int:
    try:
        docker = find_docker()
        folder.mkdir(parents=True, exist_ok=True)
        for tag in TAGS.values():
            contents = ask(docker, tag)
            path = folder / f"{tag.partition(':')[0]}.cdx.json"
            path.write_text(json.dumps(document(tag, contents), indent=1) + "\n")
            print(f"{path.relative_to(ROOT)}: {len(contents['python'])} Python, {len(contents['debian'])} Debian packages")
            for licence, count in Counter(row[2] or "not stated" for row in contents["python"]).most_common():
                print(f"  {count:4d}  {licence}")
    except (NoDocker, Stop) as problem:
        print(f"sbom: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
