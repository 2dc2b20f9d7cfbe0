"""The documents against the routes that there are, and against themselves."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from containers.serve import models, openapi, sizing
from containers.serve.config import ServeConfig
from containers.serve.health import Health


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


@pytest.mark.parametrize("document", [openapi.single_model(), openapi.multi_model()], ids=["single", "multi"])
def test_every_reference_leads_somewhere_and_no_part_is_left_over(document: dict[str, Any]):
    named = {f"#/components/{kind}/{name}" for kind, parts in document["components"].items() for name in parts}
    assert set(references(document)) == named


def test_every_route_of_a_multi_model_server_is_in_its_document_and_no_other():
    config = ServeConfig(multi_model=True)
    app = models.build(0, config, sizing.derive(config, cores=2, gpus=0), Health(0))
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    paths = openapi.multi_model()["paths"]
    assert routes == {(path, key.upper()) for path, parts in paths.items() for key in parts if key != "parameters"}
