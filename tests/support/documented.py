"""Requests that schemathesis makes from an OpenAPI document of ours: photos where it says photo, the same ones each time."""

import base64
import json
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import negative_data_rejection

from tests.support.artifacts import photo

PHOTOS = [photo(seed, format=format) for seed, format in enumerate(("JPEG", "PNG", "WEBP"))]
for media_type in ("image/jpeg", "image/png", "image/webp", "application/x-image", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, st.sampled_from(PHOTOS))
LINES = st.lists(st.sampled_from(PHOTOS).map(lambda data: json.dumps({"b64": base64.b64encode(data).decode()})), min_size=1)
schemathesis.openapi.media_type("application/jsonlines", LINES.map(lambda lines: "\n".join(lines).encode()))


def api(document: dict[str, Any]) -> Any:
    made = from_dict(document)
    made.config.generation.update(deterministic=True, database="none")
    return made


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def unfit(case: schemathesis.Case) -> list[Any]:
    """Checks that do not fit: in a batch, what is wrong with one photo is said in its place."""
    return [negative_data_rejection] if case.media_type in ("application/json", "application/jsonlines") else []


def answers(case: schemathesis.Case, url: str, session: requests.Session) -> None:
    """The server at `url` answers `case` as its document says, and not with a 5xx."""
    response = case.call(base_url=url, session=session, timeout=60)
    assert response.status_code < 500, response.text
    case.validate_response(response, excluded_checks=unfit(case))
