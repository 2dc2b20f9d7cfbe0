"""Requests that schemathesis makes from the multi-model server's OpenAPI document, valid and not, against a real server."""

import copy
import random
from pathlib import Path

import pytest
import requests
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from containers.serve import openapi
from tests.support import documented
from tests.support.multi_model import Models
from tests.support.mutations import mutated, small_photos
from tests.support.server import Server, until

pytestmark = pytest.mark.slow

NAME = "dogs"
anything = openapi.multi_model()
of_dogs = copy.deepcopy(anything)
of_dogs["components"]["parameters"]["Name"]["schema"] = {"enum": [NAME]}
asking = documented.api(of_dogs).include(operation_id=["get", "invoke"])
others = documented.api(anything).exclude(operation_id="load")  # names that are loaded by nobody
loading = documented.api(anything).include(operation_id="load")


def pids(server: Server) -> set[int]:
    return {process.pid for process in server.processes("kennel-")}


@pytest.fixture(scope="module")
def server(multi_model: Models, model_dir: Path):
    """With one model, which is there to the end, and no other."""
    assert multi_model.load(NAME, model_dir).status_code == 200
    workers = pids(multi_model.server)
    yield multi_model.server
    assert multi_model.names == [NAME]
    until(lambda: pids(multi_model.server) == workers, "what was refused has left no process")
    assert not multi_model.server.events("unexpected error")


@pytest.fixture(scope="module")
def session():
    with requests.Session() as keeping:
        yield keeping


@asking.parametrize()
@documented.examples(150)
def test_a_loaded_model_answers_as_the_document_says(case: schemathesis.Case, server: Server, session: requests.Session):
    documented.answers(case, server.url, session)


@others.parametrize()
@documented.examples(60)
def test_names_that_nobody_loaded_are_answered_as_the_document_says(
    case: schemathesis.Case, server: Server, session: requests.Session
):
    documented.answers(case, server.url, session)


@loading.parametrize()
@documented.examples(20)  # a process is started for each that makes sense
def test_loads_are_answered_as_the_document_says(case: schemathesis.Case, server: Server, session: requests.Session):
    """What fits the document may still name a directory without a model: 400."""
    response = case.call(base_url=server.url, session=session, timeout=120)
    assert response.status_code < 500, response.text
    case.validate_response(response, excluded_checks=[positive_data_acceptance])


def test_damaged_photos_cause_no_server_error(server: Server, session: requests.Session):
    chance, originals = random.Random(21), small_photos()
    for _ in range(300):
        body = mutated(chance.choice(originals), chance)
        response = session.post(f"{server.url}/models/{NAME}/invoke", data=body, timeout=60)
        assert response.status_code in (200, 400, 413, 415), response.text


def test_the_document_is_served(server: Server, session: requests.Session):
    assert session.get(f"{server.url}/openapi.json", timeout=60).json() == openapi.multi_model()


def test_a_life_of_a_model_is_in_the_document(server: Server, session: requests.Session, model_dir: Path):
    """The successes that no made-up request reaches."""
    document = documented.api(anything)

    def call(operation: str, **given: object) -> int:
        case = document.find_operation_by_id(operation).Case(**given)
        response = case.call(base_url=server.url, session=session, timeout=120)
        case.validate_response(response)
        return response.status_code

    load = {"body": {"model_name": "a//b", "url": str(model_dir)}, "media_type": "application/json"}
    named = {"path_parameters": {"name": "a%2F%2Fb"}}
    assert call("load", **load) == 200
    assert call("load", **load) == 409
    assert call("get", **named) == 200
    assert call("list", query={"limit": 1}) == 200
    assert call("invoke", **named, body=documented.PHOTOS[0], media_type="image/jpeg") == 200
    assert call("unload", **named) == 200
    assert call("unload", **named) == 404
