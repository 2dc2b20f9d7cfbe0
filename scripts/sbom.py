"""make sbom: what is in the two images, as CycloneDX 1.5 in build/sbom, and a table of the licences.

Asked of the images themselves, by a few lines of their own Python: no tool is added to them, and what is not installed is
not listed. A licence is what a package says of itself where programs can read it: the metadata of a Python package, the
copyright file of a Debian package (its machine-readable format 1.0, DEP-5), the header of weights.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from scripts.images import TAGS, version
from scripts.machine import ROOT, Command, Docker, NoDocker, Stop, find_docker

OWN_LICENCE = "Apache-2.0"
NOT_STATED = "not stated"
INSIDE = r"""
import hashlib, json, pathlib, re, struct, subprocess
from importlib.metadata import distributions
def licence(m):
    trove = [c.rsplit(' :: ', 1)[1] for c in m.get_all('Classifier', []) if c.startswith('License ::')]
    short = (m.get('License') or '').strip()
    return m.get('License-Expression') or '; '.join(trove) or (short if 0 < len(short) < 60 else None)
def debian_licence(name):
    path = pathlib.Path('/usr/share/doc', name, 'copyright')
    text = path.read_text(errors='replace') if path.is_file() else ''
    if not re.search(r'^Format(-Specification)?:.*(copyright-format|dep5)', text, re.M | re.I):
        return None
    return '; '.join(dict.fromkeys(re.findall(r'^License:[ \t]*(\S.*?)\s*$', text, re.M))) or None
def source(path):
    if path.suffix != '.safetensors':
        return None
    with path.open('rb') as file:
        return json.loads(file.read(struct.unpack('<Q', file.read(8))[0])).get('__metadata__', {}).get('source')
python = [(d.name, d.version, licence(d.metadata)) for d in distributions()]
query = ['dpkg-query', '-W', '-f', '${Package} ${Version}\n']
rows = [line.split() for line in subprocess.run(query, capture_output=True, text=True).stdout.splitlines()]
debian = [(name, version, debian_licence(name)) for name, version in rows]
root = pathlib.Path('/opt/kennel')
paths = sorted([*root.glob('pretrained/*.safetensors'), *root.glob('containers/core/*.so')])
files = [(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), source(path)) for path in paths]
print(json.dumps({'python': python, 'debian': debian, 'files': files}))
"""
Contents = dict[str, list[list[str | None]]]


def ask(docker: Docker, tag: str) -> Contents:
    """{"python": [[name, version, licence or None], …], "debian": the same, "files": [[path, SHA-256, source or None], …]}.

    Raises Stop.
    """
    command: Command = [docker.cli, "run", "--rm", "--network", "none", tag, "python3", "-c", INSIDE]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise Stop(f"{tag} could not be asked: {done.stderr.strip().splitlines()[-1:]}; make images builds it")
    answer: Contents = json.loads(done.stdout)
    return answer


def document(tag: str, contents: Contents) -> dict[str, Any]:
    """A CycloneDX document; the purl types are those of the package-url specification."""
    components = [
        _package(f"pkg:pypi/{str(name).lower()}@{of}", name, of, said) for name, of, said in _sorted(contents["python"])
    ]
    components += [_package(f"pkg:deb/debian/{name}@{of}", name, of, said) for name, of, said in _sorted(contents["debian"])]
    components += [_file(str(path), str(digest), source) for path, digest, source in contents["files"]]
    image = {"type": "container", "name": tag.partition(":")[0], "version": version()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": image},
        "components": components,
    }


def _sorted(rows: list[list[str | None]]) -> list[list[str | None]]:
    return sorted(rows, key=str)


def _package(purl: str, name: str | None, number: str | None, licence: str | None) -> dict[str, Any]:
    return {"type": "library", "name": name, "version": number, "purl": purl} | _licences(licence)


def _licences(stated: str | None) -> dict[str, Any]:
    """A licence that is not stated for programs is said to be so, as leaving it out would not tell it from one forgotten."""
    if stated is None:
        return {"properties": [{"name": "org.kennel.licence", "value": NOT_STATED}]}
    return {"licenses": [{"license": {"name": name}} for name in stated.split("; ")]}


def _file(path: str, digest: str, source: str | None) -> dict[str, Any]:
    """Weights say in their header which package they come from; what says nothing was compiled from this repository."""
    found = {"name": path, "hashes": [{"alg": "SHA-256", "content": digest}]}
    if not path.endswith(".safetensors"):
        return found | {"type": "library", "version": version()} | _licences(OWN_LICENCE)
    told = re.match(r"(?P<name>\S+) (?P<version>\S+) \((?P<licence>[^)]+)\)", source or "")
    if told is None:
        return found | {"type": "machine-learning-model"} | _licences(None)
    purl = f"pkg:pypi/{told['name']}@{told['version']}"
    kind = {"type": "machine-learning-model", "version": told["version"], "purl": purl, "description": source}
    return found | kind | _licences(told["licence"])


def main(folder: Path = ROOT / "build" / "sbom") -> int:
    try:
        docker = find_docker()
        folder.mkdir(parents=True, exist_ok=True)
        for tag in TAGS.values():
            contents = ask(docker, tag)
            path = folder / f"{tag.partition(':')[0]}.cdx.json"
            path.write_text(json.dumps(document(tag, contents), indent=1) + "\n")
            print(f"{path.relative_to(ROOT)}: {', '.join(f'{len(rows)} {kind}' for kind, rows in contents.items())}")
            for kind in ("python", "debian"):
                print(f"  licences of its {kind} packages; a package may have several")
                names = (name for row in contents[kind] for name in (row[2] or NOT_STATED).split("; "))
                for licence, count in Counter(names).most_common(12):
                    print(f"  {count:4d}  {licence}")
    except (NoDocker, Stop) as problem:
        print(f"sbom: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
