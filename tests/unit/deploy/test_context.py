"""Waiting with a limit, patience with IAM, and errors that say what to do."""

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from deploy.errors import DeployError, TimedOut, explained
from tests.support.aws import context


def client_error(code, message="no"):
    return ClientError({"Error": {"Code": code, "Message": message}}, "DescribeEndpoint")


def states(*values):
    remaining = list(values)
    return lambda: remaining.pop(0) if len(remaining) > 1 else remaining[0]


def test_a_wait_ends_with_the_state():
    assert (
        context().wait("endpoint", states("Creating", "Creating", "InService"), until={"InService"}, limit_seconds=60)
        == "InService"
    )


def test_a_wait_without_a_terminal_says_where_it_is_on_a_change_and_once_a_minute():
    made = context()
    made.wait("endpoint", states(*["Creating"] * 9, "Updating", "InService"), until={"InService"}, limit_seconds=600)
    assert made.console.text.splitlines() == [
        "endpoint: Creating, 0 min 00 s of 10 min",
        "endpoint: Creating, 1 min 00 s of 10 min",
        "endpoint: Updating, 1 min 30 s of 10 min",
    ]


def test_a_wait_has_a_limit_and_says_how_to_go_on():
    with pytest.raises(TimedOut, match=r"endpoint: still Creating after 70 s\n  try: run the same command again"):
        context().wait("endpoint", states("Creating"), until={"InService"}, limit_seconds=60)


def test_a_state_that_is_an_end_raises_with_its_hint():
    with pytest.raises(DeployError, match="ended as FAILED after 0 s\n  try: look"):
        context().wait("warm-up", states("FAILED"), until={"READY"}, failed={"FAILED": "look"}, limit_seconds=60)


def test_a_role_made_a_moment_ago_is_waited_for_and_other_refusals_are_not():
    answers = [client_error("InvalidParameterValueException", "The role cannot be assumed by Lambda"), "made"]

    def call():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert context().patiently("the role", call) == "made"
    for other in (client_error("ValidationException", "no such instance type"), client_error("AccessDenied")):
        made = context()
        answers[:] = [other]
        with pytest.raises(ClientError):
            made.patiently("the role", call)
        assert made.clock.seconds == 0


def test_a_role_that_never_comes_is_given_up():
    def call():
        raise client_error("ValidationException", "Could not assume role")

    with pytest.raises(ClientError):
        context().patiently("the role", call, limit_seconds=10)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (client_error("AccessDeniedException"), "deploy policies"),
        (client_error("ExpiredToken"), "log in again"),
        (client_error("ResourceLimitExceeded"), "Service Quotas"),
        (NoCredentialsError(), "AWS_PROFILE"),
    ],
)
def test_errors_say_where_what_and_what_to_try(error, says):
    with pytest.raises(DeployError, match=r"^endpoint/x: ") as caught, explained("endpoint/x"):
        raise error
    assert says in caught.value.hint
