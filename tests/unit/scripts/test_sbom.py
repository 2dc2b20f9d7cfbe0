import json

import pytest

from scripts import sbom
from scripts.machine import Docker, Stop

CONTENTS = {"python": [["Flask", "3.1", "BSD-3-Clause"], ["attrs", "1", None]], "debian": [["libc6", "2.36"]]}


def test_every_package_is_a_component_with_its_address(fake_docker) -> None:
    contents = sbom.ask(Docker(fake_docker(run=f"echo '{json.dumps(CONTENTS)}'")), "kennel-serve:dev")
    found = sbom.document("kennel-serve:dev", contents)
    assert found["metadata"]["component"]["name"] == "kennel-serve"
    assert [part["purl"] for part in found["components"]] == [
        "pkg:pypi/flask@3.1",
        "pkg:pypi/attrs@1",
        "pkg:deb/debian/libc6@2.36",
    ]
    assert found["components"][0]["licenses"] == [{"license": {"name": "BSD-3-Clause"}}]
    assert "licenses" not in found["components"][1]


def test_an_image_that_is_not_there_is_one_line(fake_docker) -> None:
    with pytest.raises(Stop, match="make images builds it"):
        sbom.ask(Docker(fake_docker(run="echo no such image >&2; exit 125")), "kennel-serve:dev")
