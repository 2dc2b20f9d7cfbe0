"""Requests that schemathesis makes from our OpenAPI document, valid and not, against a real server."""

from pathlib import Path

import pytest
import requests
import schemathesis

from containers.serve import openapi
from tests.support import documented
from tests.support.scripted import scripted
from tests.support.server import Server

api = documented.api(openapi.single_model())


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
@documented.examples(150)
def test_whatever_is_sent_is_answered_as_the_document_says(case: schemathesis.Case, server: Server, session: requests.Session):
    documented.answers(case, server.url, session)


def test_the_document_is_served(server: Server, session: requests.Session):
    assert session.get(f"{server.url}/openapi.json", timeout=60).json() == openapi.single_model()
