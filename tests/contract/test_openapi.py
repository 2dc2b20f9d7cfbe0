"""Requests that schemathesis makes from our OpenAPI document, valid and not, against a real server."""

import base64
import json
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection

from tests.support.artifacts import photo
from tests.support.scripted import scripted
from tests.support.server import ROOT, Server

PHOTOS = [photo(seed, format=format) for seed, format in enumerate(("JPEG", "PNG", "WEBP"))]
for media_type in ("image/jpeg", "image/png", "image/webp", "application/x-image", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, st.sampled_from(PHOTOS))
LINES = st.lists(st.sampled_from(PHOTOS).map(lambda data: json.dumps({"b64": base64.b64encode(data).decode()})), min_size=1)
schemathesis.openapi.media_type("application/jsonlines", LINES.map(lambda lines: "\n".join(lines).encode()))

api = schemathesis.openapi.from_path(ROOT / "containers" / "serve" / "openapi.json")
api.config.generation.update(deterministic=True, database="none")


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    with scripted(model_dir, tmp_path_factory.mktemp("server"), max_body_mb=1) as engine:
        workers = {process.pid for process in engine.server.processes("kennel-")}
        yield engine.server
        assert {process.pid for process in engine.server.processes("kennel-")} == workers
        assert not engine.server.events("unexpected error")


@pytest.fixture(scope="module")
def session():
    with requests.Session() as keeping:
        yield keeping


@api.parametrize()
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_is_answered_as_the_document_says(case: schemathesis.Case, server: Server, session: requests.Session):
    response = case.call(base_url=server.url, session=session, timeout=60)
    assert response.status_code < 500, response.text
    in_place = case.media_type in ("application/json", "application/jsonlines")  # what is wrong with one photo is said there
    case.validate_response(response, excluded_checks=[negative_data_rejection] if in_place else [])
