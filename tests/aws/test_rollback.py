"""`rollback` through the command line, in a fake account: what it goes back to, and what it passes over."""

import pytest

from deploy import releases
from tests.support import moto_ext
from tests.support.applied import endpoint, grow_old, interrupt, settled
from tests.support.aws import Recorder, client, context, everything
from tests.support.released import push, upload, will_answer


def test_rollback_goes_to_the_one_before_and_apply_stays_there(released):
    will_answer()
    code, document, err = released("release", "--image", push(content="second"))
    assert code == 0, err
    assert endpoint()["EndpointConfigName"] == document["config"] != released.first
    code, document, _ = released("rollback")
    assert (code, document["config"]) == (0, released.first)
    assert endpoint()["EndpointConfigName"] == released.first
    assert {step["action"] for step in released("apply")[1]["steps"]} == {"keep"}


@pytest.fixture
def three(released):
    """Three releases; the last is live. Their configurations, oldest first."""
    configs = [released.first]
    for content in ("second", "third"):
        will_answer()
        code, document, err = released("release", "--image", push(content=content))
        assert code == 0, err
        configs.append(document["config"])
    return configs


@pytest.mark.parametrize("meanwhile", [lambda: None, settled], ids=["pending", "finished"])
def test_a_rollback_interrupted_in_its_wait_is_continued_by_the_same_command(released, three, meanwhile):
    """Back to the bad release, or one too far, would be worse than the interruption."""
    first, second, third = three
    released.on_sleep = interrupt
    assert released("rollback")[0] == 130
    released.on_sleep = lambda: None
    assert endpoint()["EndpointStatus"] == "Updating"
    meanwhile()
    code, document, err = released("rollback")
    assert (code, document["config"]) == (0, second), err
    assert endpoint()["EndpointConfigName"] == second
    assert released("rollback")[1]["config"] == first, "what was left is no way back"
    assert endpoint()["EndpointConfigName"] == first
    code, _, err = released("rollback")
    assert code == 1
    assert f"{third} (left)" in err
    assert f"{second} (left)" in err
    assert released("rollback", "--to", third)[1]["config"] == third


def test_rollback_goes_to_what_served_last_not_to_what_was_made_last(released):
    """An earlier release that was released again has its old configuration."""
    for image in (push(content="second"), released.image, push(content="third")):
        will_answer()
        code, _, err = released("release", "--image", image)
        assert code == 0, err
    assert released("rollback")[1]["config"] == released.first


def test_the_same_rollback_to_a_named_one_may_be_said_again(released, three):
    assert released("rollback", "--to", three[0])[0] == 0
    assert released("rollback", "--to", three[0])[1]["config"] == three[0]
    assert endpoint()["EndpointConfigName"] == three[0]


def test_what_a_rollback_could_not_leave_has_served_as_before(released, three):
    moto_ext.FAIL["kennel-dev"] = "no capacity"
    code, _, err = released("rollback")
    assert code == 1
    assert f"still serves {three[2]}" in err
    assert releases.outcome(context(), three[2]) == releases.SERVED


def test_what_was_left_and_is_released_again_is_a_way_back_again(released, three):
    assert released("rollback")[0] == 0
    for image in (releases.of_config(context(), three[2]).image, push(content="fourth")):
        will_answer()
        assert released("release", "--image", image)[0] == 0
    assert released("rollback")[1]["config"] == three[2]


def deployment(recorder):
    (update,) = [call.parameters for call in recorder.calls if call.operation == "UpdateEndpoint"]
    policy = update["DeploymentConfig"]
    return policy["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["Type"], "AutoRollbackConfiguration" in policy


def test_the_alarms_of_what_is_left_do_not_guard_the_way_back(released):
    """They ring a minute after the first bad answer: often after the rollback has begun."""
    will_answer((0.1, 0.2, 0.7))
    recorder = Recorder()
    wrong = ["release", "--image", push(content="wrong")]
    assert released(*wrong, recorder=recorder)[0] == 1
    there, back = [call.parameters["DeploymentConfig"] for call in recorder.calls if call.operation == "UpdateEndpoint"]
    assert len(there["AutoRollbackConfiguration"]["Alarms"]) == 2
    assert "AutoRollbackConfiguration" not in back
    will_answer()
    assert released("release", "--image", push(content="second"))[0] == 0
    recorder = Recorder()
    assert released("rollback", recorder=recorder)[1]["config"] == released.first
    assert deployment(recorder) == ("ALL_AT_ONCE", False)
    (unsure,) = [past.config for past in releases.past(context()) if past.outcome == releases.WRONG]
    recorder = Recorder()
    assert released("rollback", "--to", unsure, recorder=recorder)[0] == 0
    assert deployment(recorder) == ("CANARY", True)


def test_rollback_passes_over_what_never_served_and_what_answered_wrongly(released):
    """Each leaves a configuration that is newer than the release before."""
    moto_ext.FAIL["kennel-dev"] = "no capacity"
    assert released("release", "--image", push(content="bad"))[0] == 1
    will_answer((0.1, 0.2, 0.7))
    assert released("release", "--image", push(content="wrong"))[0] == 1
    code, _, err = released("rollback")
    assert code == 1
    assert "(never served)" in err
    assert "(answered-wrongly)" in err
    will_answer()
    assert released("release", "--image", push(content="better"))[0] == 0
    assert released("rollback")[1]["config"] == released.first


def test_one_that_answered_wrongly_and_now_does_not_is_a_way_back_again(released):
    again = ["release", "--image", push(content="b")]
    will_answer((0.1, 0.2, 0.7))
    assert released(*again)[0] == 1
    will_answer()
    code, document, err = released(*again)
    assert code == 0, err
    will_answer()
    assert released("release", "--image", push(content="c"))[0] == 0
    assert released("rollback")[1]["config"] == document["config"] != released.first


def test_a_first_release_that_answers_wrongly_is_no_way_back(deploy):
    assert deploy("apply")[0] == 0
    will_answer((0.1, 0.2, 0.7))
    assert deploy("release", "--image", push(content="wrong"), "--model-data", upload())[0] == 1
    assert deploy("apply")[0] == 0
    will_answer()
    assert deploy("release", "--image", push(content="right"))[0] == 0
    code, _, err = deploy("rollback")
    assert code == 1
    assert "(answered-wrongly)" in err


def test_failed_releases_do_not_push_out_the_good_ones(released):
    will_answer()
    assert released("release", "--image", push(content="second"))[0] == 0
    for content in ("bad", "worse", "worst"):
        moto_ext.FAIL["kennel-dev"] = "no capacity"
        assert released("release", "--image", push(content=content))[0] == 1
    grow_old()
    assert released("apply")[0] == 0
    assert len(everything()["configs"]) == 4
    assert released("rollback")[1]["config"] == released.first


def test_rollback_to_another_instance_type_puts_back_what_wakes_an_asynchronous_endpoint(deploy):
    """Deregistering takes every policy with it: without wake-up, an endpoint on no instance would sleep for ever."""
    plain = deploy.stage.read_text()

    def on(kind):
        tables = f'[endpoint]\nkind = "async"\ninstance_type = "{kind}"\n[scaling]\nminimum = 0\n[function]\nenabled = false\n'
        deploy.stage.write_text(plain + tables)

    on("ml.g4dn.xlarge")
    assert deploy("apply")[0] == 0
    assert deploy("release", "--image", push(), "--model-data", upload())[0] == 0
    on("ml.g4dn.2xlarge")
    assert deploy("apply")[0] == 0
    moto_ext.FAIL["kennel-dev"] = "no capacity"
    for code in (1, 0):  # whether it comes there or not
        assert deploy("rollback")[0] == code
        rows = client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
        assert "wake-up" in {row["PolicyName"] for row in rows}


def test_rollback_names_what_there_is(released):
    code, _, err = released("rollback", "--to", "kennel-dev-0123456789")
    assert code == 1
    assert f"there is none besides the live {released.first}" in err


def test_with_nothing_to_go_back_to_it_says_what_to_do_instead(released):
    code, _, err = released("rollback")
    assert code == 1
    assert "cannot go back to an earlier release: there is none" in err
    assert "try: `python -m deploy release --job JOB` (or --model-data s3://…)" in err
    moto_ext.FAIL["kennel-dev"] = "no capacity"
    assert released("release", "--image", push(content="bad"))[0] == 1
    code, _, err = released("rollback")
    assert code == 1
    assert "try: --to CONFIG goes to any of them" in err
