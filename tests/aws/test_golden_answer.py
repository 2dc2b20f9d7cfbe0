"""A release is asked the golden photo: who answers wrongly is taken back."""

import pytest
from botocore.exceptions import ClientError

from containers.core.manifest import HALF_TOLERANCE
from deploy import releases
from tests.support.applied import endpoint, interrupt, settled
from tests.support.aws import Recorder, SharedSession, client, context
from tests.support.released import PROBABILITIES, push, will_answer


def test_a_release_that_answers_wrongly_is_taken_back(released):
    will_answer((0.1, 0.2, 0.7))
    code, _, err = released("release", "--image", push(content="wrong"))
    assert code == 1
    assert "differ by 0.6" in err
    assert f"back on {released.first}" in err
    assert endpoint()["EndpointConfigName"] == released.first


def test_an_answer_that_the_server_lets_a_gpu_give_is_right(released):
    off = HALF_TOLERANCE * 0.9
    will_answer((0.7 - off, 0.2 + off, 0.1))
    assert released("release", "--image", push(content="half"))[0] == 0
    will_answer((0.7 - 2 * off, 0.2 + 2 * off, 0.1))
    assert released("release", "--image", push(content="off"))[0] == 1


class AtTheGoldenPhoto(Recorder):
    """Ctrl-C when the endpoint works and has not been asked yet."""

    def __call__(self, params, model, **more) -> None:
        if model.name == "InvokeEndpoint":
            raise KeyboardInterrupt
        super().__call__(params, model, **more)


@pytest.mark.parametrize("meanwhile", [lambda: None, settled], ids=["pending", "finished"])
def test_a_wrong_release_is_taken_back_by_the_rerun_of_an_interrupted_one(released, meanwhile):
    again = ["release", "--image", push(content="wrong")]
    will_answer((0.1, 0.2, 0.7))
    released.on_sleep = interrupt
    assert released(*again)[0] == 130
    released.on_sleep = lambda: None
    meanwhile()
    code, _, err = released(*again)
    assert code == 1
    assert f"back on {released.first}" in err
    assert endpoint()["EndpointConfigName"] == released.first


def test_what_a_wrong_release_goes_back_to_is_not_taken_away_before_it_is_asked(released):
    """Not even where one release is kept, and the file has changed since: the live one is not the newest that served."""
    released.stage.write_text(f"{released.stage.read_text()}[endpoint]\nkeep_releases = 1\n")
    for content, probabilities in (("b", PROBABILITIES), ("c", PROBABILITIES), ("wrong", (0.1, 0.2, 0.7))):
        before = endpoint()["EndpointConfigName"]
        will_answer(probabilities)
        code, _, err = released("release", "--image", push(content=content))
        assert code == (content == "wrong"), err
    assert endpoint()["EndpointConfigName"] == before
    will_answer()
    assert released("rollback")[0] == 0, "one besides the live one is kept"


def test_what_nobody_has_asked_the_golden_photo_is_no_way_back(released):
    assert released("release", "--image", push(content="unasked"), recorder=AtTheGoldenPhoto())[0] == 130
    unasked = settled()
    assert releases.outcome(context(), unasked) == ""
    will_answer((0.1, 0.2, 0.7))
    code, _, err = released("release", "--image", push(content="wrong"))
    assert code == 1
    assert f"back on {released.first}" in err
    assert endpoint()["EndpointConfigName"] == released.first != unasked


class Answers(Recorder):
    """The endpoint, or AWS in front of it, answers InvokeEndpoint with an error."""

    def __init__(self, code, **more) -> None:
        super().__init__()
        self.answer = {"Error": {"Code": code, "Message": "no"}} | more

    def __call__(self, params, model, **more) -> None:
        super().__call__(params, model, **more)
        if model.name == "InvokeEndpoint":
            raise ClientError(self.answer, model.name)


@pytest.mark.parametrize(
    "recorder", [Answers("ExpiredTokenException"), Answers("ModelError", OriginalStatusCode=503)], ids=["no session", "busy"]
)
def test_who_could_not_ask_does_not_judge(released, recorder):
    again = ["release", "--image", push(content="b")]
    code, _, err = released(*again, recorder=recorder)
    assert code == 1
    assert "whether rightly nobody knows" in err
    unasked = endpoint()["EndpointConfigName"]
    assert unasked != released.first
    assert releases.outcome(context(), unasked) == ""
    will_answer()
    code, document, err = released(*again)
    assert (code, document["config"]) == (0, unasked), err
    assert releases.outcome(context(), unasked) == releases.SERVED


def test_a_container_that_fails_on_the_golden_photo_is_taken_back(released):
    failing = Answers("ModelError", OriginalStatusCode=500, OriginalMessage="CUDA error")
    code, _, err = released("release", "--image", push(content="b"), recorder=failing)
    assert code == 1
    assert "the container answers 500: CUDA error" in err
    assert endpoint()["EndpointConfigName"] == released.first


def test_a_function_that_is_broken_takes_no_release_back(released):
    will_answer(through_function=(0.1, 0.2, 0.7))
    code, _, err = released("release", "--image", push(content="b"))
    assert code == 1
    assert "smoke through the function" in err
    assert "back on" not in err
    new = endpoint()["EndpointConfigName"]
    assert new != released.first
    assert releases.outcome(context(), new) == releases.SERVED


class Meanwhile(Recorder):
    """Somebody else goes back to `config` when the golden photo is about to be sent."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config

    def __call__(self, params, model, **more) -> None:
        super().__call__(params, model, **more)
        if model.name == "InvokeEndpoint":
            client("sagemaker").update_endpoint(EndpointName="kennel-dev", EndpointConfigName=self.config)
            SharedSession.recorder = self


@pytest.mark.parametrize("answers", [PROBABILITIES, (0.1, 0.2, 0.7)], ids=["right", "wrong"])
def test_an_answer_that_may_have_been_another_release_s_is_held_against_none(released, answers):
    will_answer(answers)
    code, _, err = released("release", "--image", push(content="b"), recorder=Meanwhile(released.first))
    assert code == 1
    assert f"somebody moved the endpoint to {released.first} meanwhile" in err
    outcomes = {past.config: past.outcome for past in releases.past(context())}
    assert outcomes.pop(released.first) == releases.SERVED
    assert list(outcomes.values()) == [""]
    assert settled() == released.first


def test_without_a_golden_photo_to_ask_it_has_served_once_it_is_in_service(released):
    code, document, err = released("release", "--image", push(content="b"), "--no-smoke")
    assert code == 0, err
    assert releases.outcome(context(), document["config"]) == releases.SERVED
