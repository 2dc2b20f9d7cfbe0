"""What a new release, a new setting or new code changes of a stage that stands."""

import pytest
from botocore.exceptions import ClientError

from deploy import stack
from deploy.errors import DeployError, Refused
from deploy.serving import EndpointConfig
from tests.support import moto_ext, moto_sagemaker
from tests.support.applied import FULL, apply, destroy, endpoint, grow_old, plan, writes_of
from tests.support.aws import Recorder, client, context, everything, release, stage


def test_a_release_keeps_the_instances_that_scaling_has_reached(aws):
    apply()
    counts = [{"VariantName": "main", "DesiredInstanceCount": 4}]
    client("sagemaker").update_endpoint_weights_and_capacities(EndpointName="kennel-dev", DesiredWeightsAndCapacities=counts)
    apply(which="b")
    assert endpoint()["ProductionVariants"][0]["DesiredInstanceCount"] == 4


def test_a_new_instance_type_takes_the_scaling_target_off_first(aws):
    apply()
    written = writes_of(apply, stage(endpoint={"instance_type": "ml.g4dn.2xlarge"}))
    order = ["DeregisterScalableTarget", "UpdateEndpoint", "RegisterScalableTarget", "PutScalingPolicy"]
    assert [name.split(":")[1] for name in written if name.split(":")[1] in order] == order
    assert writes_of(apply, stage(endpoint={"instance_type": "ml.g4dn.2xlarge"})) == []


def test_a_command_outlasts_sagemakers_own_limit_and_sees_the_rollback(aws, monkeypatch):
    apply()
    minutes = 10
    monkeypatch.setattr(moto_sagemaker, "POLLS", minutes * 6)  # one poll in ten seconds
    moto_ext.FAIL["kennel-dev"] = "the update took too long"
    slow = stage(endpoint={"update_limit_minutes": minutes}, rollout={"wait_seconds": 60})
    with pytest.raises(DeployError, match=r"rolled the update back; .*took too long"):
        apply(slow, which="b")


class Refused400(Recorder):
    """AWS refuses UpdateEndpoint."""

    def __call__(self, params, model, **more) -> None:
        super().__call__(params, model, **more)
        if model.name == "UpdateEndpoint":
            raise ClientError({"Error": {"Code": "ResourceLimitExceeded", "Message": "no more instances"}}, model.name)


def scaling_of_the_endpoint():
    scaling = client("application-autoscaling")
    rows = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    bounds = [(row["MinCapacity"], row["MaxCapacity"]) for row in rows]
    policies = {
        row["PolicyName"]: row["PolicyARN"]
        for row in scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    }
    return bounds, policies


@pytest.mark.parametrize("asleep", [False, True], ids=["real-time", "asynchronous"])
@pytest.mark.parametrize("recorder", [Recorder, Refused400], ids=["rolled back", "refused"])
def test_a_new_instance_type_that_fails_leaves_scaling_where_it_was(aws, recorder, asleep):
    sleeping = {"endpoint": {"kind": "async"}, "scaling": {"minimum": 0}, "function": {"enabled": False}}
    tables = sleeping if asleep else {"endpoint": {}}
    apply(stage(**tables))
    bounds, policies = scaling_of_the_endpoint()
    moto_ext.FAIL["kennel-dev"] = "no capacity"
    with pytest.raises(DeployError, match=r"no capacity|no more instances"):
        apply(stage(**tables | {"endpoint": tables["endpoint"] | {"instance_type": "ml.g4dn.2xlarge"}}), recorder=recorder())
    assert scaling_of_the_endpoint()[0] == bounds != []
    assert set(scaling_of_the_endpoint()[1]) == set(policies)
    if asleep:
        (alarm,) = client("cloudwatch").describe_alarms(AlarmNames=["kennel-dev-endpoint-wake-up"])["MetricAlarms"]
        assert alarm["AlarmActions"] == [scaling_of_the_endpoint()[1]["wake-up"]], (
            "the alarm wakes the policy that is there now"
        )


def test_other_bounds_need_no_new_configuration(aws):
    apply()
    assert writes_of(apply, stage(scaling={"minimum": 2, "maximum": 6})) == ["application-autoscaling:RegisterScalableTarget"]


def test_more_time_to_start_is_more_time_to_load_in_one_update(aws):
    def live():
        config = client("sagemaker").describe_endpoint_config(EndpointConfigName=endpoint()["EndpointConfigName"])
        (variant,) = config["ProductionVariants"]
        model = client("sagemaker").describe_model(ModelName=variant["ModelName"])
        return variant["ContainerStartupHealthCheckTimeoutInSeconds"], model["PrimaryContainer"].get("Environment", {})

    apply()
    assert live() == (600, {})  # the server's default fits
    slow = stage(endpoint={"startup_timeout_seconds": 1200})
    changed = {step.key.partition("/")[0]: step.action for step in plan(slow) if step.action != "keep"}
    assert changed == {"model": "create", "endpoint-config": "create", "endpoint": "update"}
    apply(slow)
    assert live() == (1200, {"SERVE_LOAD_TIMEOUT_SECONDS": "960.0"})
    assert writes_of(apply, slow) == []
    apply()
    assert live() == (600, {})


def test_an_update_moves_traffic_behind_alarms(aws):
    apply()
    recorder = Recorder()
    apply(stage(rollout={"traffic": "linear", "percent": 25}), which="b", recorder=recorder)
    update = next(call.parameters for call in recorder.calls if call.operation == "UpdateEndpoint")
    assert update["RetainAllVariantProperties"] is True
    traffic = update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert traffic["LinearStepSize"] == {"Type": "CAPACITY_PERCENT", "Value": 25}
    watched = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert {alarm["AlarmName"] for alarm in watched} <= set(everything()["alarms"])
    assert len(watched) == 2


def test_an_endpoint_that_sleeps_moves_at_once(aws):
    config = stage(endpoint={"kind": "async"}, scaling={"minimum": 0}, function={"enabled": False})
    apply(config)
    counts = [{"VariantName": "main", "DesiredInstanceCount": 0}]
    client("sagemaker").update_endpoint_weights_and_capacities(EndpointName="kennel-dev", DesiredWeightsAndCapacities=counts)
    recorder = Recorder()
    apply(config, which="b", recorder=recorder)
    (update,) = [call.parameters for call in recorder.calls if call.operation == "UpdateEndpoint"]
    assert "DeploymentConfig" not in update
    assert endpoint()["ProductionVariants"][0]["DesiredInstanceCount"] == 0


@pytest.mark.parametrize("kind", ["async", "multi-model"])
def test_every_endpoint_with_instances_moves_behind_alarms(aws, kind):
    config = stage(endpoint={"kind": kind, "instance_type": "ml.m5.xlarge"}, function={"enabled": kind != "async"})
    apply(config)
    recorder = Recorder()
    apply(config, which="b", recorder=recorder)
    (update,) = [call.parameters for call in recorder.calls if call.operation == "UpdateEndpoint"]
    canary = {"Type": "CAPACITY_PERCENT", "Value": 10}
    assert update["DeploymentConfig"] == {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": "CANARY", "WaitIntervalInSeconds": 300, "CanarySize": canary},
            "TerminationWaitInSeconds": 120,
            "MaximumExecutionTimeoutInSeconds": 3600,
        },
        "AutoRollbackConfiguration": {
            "Alarms": [{"AlarmName": "kennel-dev-endpoint-5xx"}, {"AlarmName": "kennel-dev-endpoint-latency"}]
        },
    }


def test_a_serverless_endpoint_is_offered_no_guardrails(aws):
    config = stage(endpoint={"kind": "serverless", "instance_type": "ml.m5.xlarge"})
    apply(config)
    recorder = Recorder()
    apply(config, which="b", recorder=recorder)
    (update,) = [call.parameters for call in recorder.calls if call.operation == "UpdateEndpoint"]
    assert "DeploymentConfig" not in update


def test_an_alarm_that_rings_already_does_not_guard_the_remedy(aws):
    apply()
    client("cloudwatch").set_alarm_state(AlarmName="kennel-dev-endpoint-5xx", StateValue="ALARM", StateReason="test")
    recorder = Recorder()
    apply(which="b", recorder=recorder)
    update = next(call.parameters for call in recorder.calls if call.operation == "UpdateEndpoint")
    watched = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert watched == [{"AlarmName": "kennel-dev-endpoint-latency"}]


def test_a_failed_endpoint_is_replaced(aws):
    moto_ext.FAIL["kennel-dev"] = "no capacity"
    with pytest.raises(DeployError, match="ended as Failed: no capacity"):
        apply()
    apply()
    assert {step.action for step in plan()} == {"keep"}


def test_an_endpoint_cannot_change_its_kind(aws):
    apply()
    for kind in ("serverless", "async"):
        config = stage(endpoint={"kind": kind}, function={"enabled": kind != "async"})
        engine = stack.engine(context(config), release())
        with pytest.raises(Refused, match="a real-time endpoint cannot become"):
            engine.check(engine.plan())


def test_what_the_file_turns_off_is_taken_away(aws):
    apply(stage(**FULL))
    off = stage(function={"provisioned_concurrency": 0}, scaling={"profile": "none"})
    apply(off)
    assert everything()["targets"] == []
    with pytest.raises(client("lambda").exceptions.ResourceNotFoundException):
        client("lambda").get_function_url_config(FunctionName="kennel-dev-invoke")
    assert writes_of(apply, off) == []
    without = stage(function={"enabled": False}, scaling={"profile": "none"})
    apply(without)
    assert everything()["functions"] == []
    assert writes_of(apply, without) == []


def test_only_the_last_releases_stay(aws):
    """The live one and three to go back to."""
    for letter in "abcde":
        apply(which=letter)
    assert len(everything()["configs"]) == 4
    assert len(everything()["models"]) == 4
    assert writes_of(apply, which="e") == []


def test_what_somebody_has_made_and_not_moved_to_yet_is_left_alone(aws):
    """A model, then a configuration with it, then the update: another's command may run between any two."""
    keep = stage(endpoint={"keep_releases": 1})
    for letter in "abc":
        apply(keep, which=letter)
    theirs = EndpointConfig(context(), release("d"))
    client("sagemaker").create_model(ModelName=theirs._model.name, **theirs._model.request)
    assert writes_of(apply, keep, which="c") == []
    client("sagemaker").create_endpoint_config(EndpointConfigName=theirs.name, **theirs.request)
    assert writes_of(apply, keep, which="c") == []
    grow_old()
    assert writes_of(apply, keep, which="c") == ["sagemaker:DeleteEndpointConfig", "sagemaker:DeleteModel"]
    assert len(everything()["configs"]) == len(everything()["models"]) == 2


@pytest.mark.parametrize("kind", ["serverless", "async", "multi-model"])
def test_other_kinds_of_endpoint(aws, kind):
    cpu = {"instance_type": "ml.m5.xlarge"} if kind == "multi-model" else {}
    asleep = {"scaling": {"minimum": 0}, "function": {"enabled": False}} if kind == "async" else {}
    config = stage(endpoint={"kind": kind, **cpu}, **asleep)
    recorder = Recorder()
    apply(config, recorder=recorder)
    assert writes_of(apply, config) == []
    (isolated,) = [call.parameters["EnableNetworkIsolation"] for call in recorder.calls if call.operation == "CreateModel"]
    assert isolated == (kind == "async"), "AWS refuses it for serverless endpoints, and later models need the network"
    destroy()
    assert not any(everything().values())
