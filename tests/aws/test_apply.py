"""The engine and its resources against a fake account: what is written, in which order, and what an interruption leaves."""

import pytest

from deploy import autoscaling, stack
from deploy.errors import DeployError, Refused
from tests.support import moto_ext
from tests.support.aws import Killed, Recorder, client, context, everything, release, stage

FULL = {
    "function": {"url": True, "reserved_concurrency": 20, "provisioned_maximum": 6},
    "endpoint": {"capture_percent": 5},
    "alarms": {"topic_arn": "arn:aws:sns:eu-west-1:123456789012:oncall"},
}


def apply(config=None, which="a", recorder=None):
    return list(stack.engine(context(config, recorder), release(which)).apply())


def plan(config=None, which="a", recorder=None):
    return stack.engine(context(config, recorder), release(which)).plan()


def destroy(recorder=None):
    return list(stack.removal(context(recorder=recorder), delete_data=True).destroy())


def endpoint():
    return client("sagemaker").describe_endpoint(EndpointName="kennel-dev")


def writes_of(call, *args, **kwargs):
    recorder = Recorder()
    call(*args, recorder=recorder, **kwargs)
    return recorder.writes


def test_a_plan_writes_nothing(aws):
    recorder = Recorder()
    assert {step.action for step in plan(stage(**FULL), recorder=recorder)} <= {"create", "keep"}
    assert recorder.writes == []
    assert not any(everything().values())


def test_a_second_apply_writes_nothing(aws):
    first = writes_of(apply, stage(**FULL))
    full = everything()
    assert len(first) > 40
    assert writes_of(apply, stage(**FULL)) == []
    assert everything() == full
    destroy()
    assert not any(everything().values())


def test_everything_that_can_carry_tags_does(aws):
    recorder = Recorder()
    apply(stage(**FULL), recorder=recorder)
    untagged = {
        call.operation
        for call in recorder.calls
        if call.operation.startswith(("Create", "Put", "Register")) and "kennel" not in str(_tags(call.parameters))
    }
    assert untagged == {
        "CreateBucket",  # tagged by the next call
        "CreateAlias", "CreateFunctionUrlConfig",  # parts of the function
        "PutBucketEncryption", "PutBucketLifecycleConfiguration", "PutBucketPolicy", "PutBucketVersioning",
        "PutPublicAccessBlock", "PutLifecyclePolicy", "PutRetentionPolicy", "PutRolePolicy", "PutScalingPolicy",
        "PutFunctionConcurrency", "PutProvisionedConcurrencyConfig",
    }  # fmt: skip


def _tags(parameters):
    return parameters.get("Tags") or parameters.get("tags") or parameters.get("Tagging")


DRIFTS = [
    ("s3", "delete_public_access_block", {"Bucket": "kennel-dev-123456789012-eu-west-1"}),
    ("s3", "delete_bucket_policy", {"Bucket": "kennel-dev-123456789012-eu-west-1"}),
    ("s3", "delete_bucket_lifecycle", {"Bucket": "kennel-dev-123456789012-eu-west-1"}),
    ("ecr", "put_image_tag_mutability", {"repositoryName": "kennel/dev/serve", "imageTagMutability": "MUTABLE"}),
    ("iam", "put_role_policy", {"RoleName": "kennel-dev-serve", "PolicyName": "kennel",
        "PolicyDocument": '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'}),
    ("iam", "delete_role_permissions_boundary", {"RoleName": "kennel-dev-train"}),
    ("logs", "put_retention_policy", {"logGroupName": "/aws/lambda/kennel-dev-invoke", "retentionInDays": 1}),
    ("application-autoscaling", "register_scalable_target", {"MinCapacity": 2, "MaxCapacity": 9,
        "ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "ResourceId": "endpoint/kennel-dev/variant/main"}),
    ("lambda", "update_function_configuration", {"FunctionName": "kennel-dev-invoke", "MemorySize": 128}),
    ("lambda", "put_function_concurrency", {"FunctionName": "kennel-dev-invoke", "ReservedConcurrentExecutions": 50}),
    ("lambda", "remove_permission", {"FunctionName": "kennel-dev-invoke", "Qualifier": "live", "StatementId": "url-invoke"}),
    ("cloudwatch", "delete_alarms", {"AlarmNames": ["kennel-dev-endpoint-latency"]}),
]  # fmt: skip


def test_drift_is_repaired_with_exactly_the_missing_calls(aws):
    apply(stage(**FULL))
    for service, operation, arguments in DRIFTS:
        getattr(client(service), operation)(**arguments)
    assert writes_of(apply, stage(**FULL)) == [
        "iam:PutRolePermissionsBoundary",
        "iam:PutRolePolicy",
        "ecr:PutImageTagMutability",
        "s3:PutPublicAccessBlock",
        "s3:PutBucketLifecycleConfiguration",
        "s3:PutBucketPolicy",
        "monitoring:PutMetricAlarm",
        "application-autoscaling:RegisterScalableTarget",
        "logs:PutRetentionPolicy",
        "lambda:UpdateFunctionConfiguration",
        "lambda:PutFunctionConcurrency",
        "lambda:AddPermission",
    ]
    assert writes_of(apply, stage(**FULL)) == []


def test_tags_of_somebody_else_are_left_alone_and_ours_follow_the_file(aws):
    apply()
    theirs = [{"Key": "cost-center", "Value": "42"}]
    bucket = client("s3").get_bucket_tagging(Bucket="kennel-dev-123456789012-eu-west-1")["TagSet"]
    client("s3").put_bucket_tagging(Bucket="kennel-dev-123456789012-eu-west-1", Tagging={"TagSet": bucket + theirs})
    client("iam").tag_role(RoleName="kennel-dev-serve", Tags=theirs)
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:kennel-dev-invoke"
    client("lambda").tag_resource(Resource=arn, Tags={"cost-center": "42"})
    assert writes_of(apply) == []
    moved = stage(stage={"owner": "platform"})
    assert writes_of(apply, moved) == ["iam:TagRole"] * 4 + ["s3:PutBucketTagging", "lambda:TagResource"]
    assert writes_of(apply, moved) == []
    tags = client("s3").get_bucket_tagging(Bucket="kennel-dev-123456789012-eu-west-1")["TagSet"]
    assert {"Key": "cost-center", "Value": "42"} in tags


def test_new_code_is_a_new_version(aws, tmp_path):
    apply()
    (tmp_path / "invoke_endpoint.py").write_text("handler = None\n")
    ctx = context()
    engine = stack.engine(ctx, release())
    for resource in engine.resources:
        if hasattr(resource, "_function"):
            resource._function.source = tmp_path
    list(engine.apply())
    assert client("lambda").get_alias(FunctionName="kennel-dev-invoke", Name="live")["FunctionVersion"] == "2"


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


def test_other_bounds_need_no_new_configuration(aws):
    apply()
    assert writes_of(apply, stage(scaling={"minimum": 2, "maximum": 6})) == ["application-autoscaling:RegisterScalableTarget"]


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
    for kind in ({"kind": "serverless"}, {"kind": "async"}):
        config = stage(endpoint=kind)
        engine = stack.engine(context(config), release())
        with pytest.raises(Refused, match="a real-time endpoint cannot become"):
            engine.check(engine.plan())


def test_the_new_version_is_warm_before_the_alias_flips_and_the_old_one_cools_after(aws):
    config = stage(function={"provisioned_maximum": 5})
    apply(config)
    written = writes_of(apply, stage(function={"provisioned_maximum": 5, "memory_mb": 1024}))
    assert [name for name in written if not name.startswith("monitoring")] == [
        "lambda:UpdateFunctionConfiguration",
        "lambda:PublishVersion",
        "lambda:PutProvisionedConcurrencyConfig",
        "lambda:UpdateAlias",
        "application-autoscaling:DeregisterScalableTarget",
        "lambda:DeleteProvisionedConcurrencyConfig",
        "application-autoscaling:RegisterScalableTarget",
        "application-autoscaling:PutScalingPolicy",
    ]
    functions = client("lambda")
    assert functions.get_alias(FunctionName="kennel-dev-invoke", Name="live")["FunctionVersion"] == "2"
    warm = functions.get_provisioned_concurrency_config(FunctionName="kennel-dev-invoke", Qualifier="2")
    assert (warm["Status"], warm["RequestedProvisionedConcurrentExecutions"]) == ("READY", 3)


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
    for letter in "abcde":
        apply(which=letter)
    assert len(everything()["configs"]) == 3
    assert len(everything()["models"]) == 3
    assert writes_of(apply, which="e") == []


@pytest.mark.parametrize("kind", ["serverless", "async", "multi-model"])
def test_other_kinds_of_endpoint(aws, kind):
    cpu = {"instance_type": "ml.m5.xlarge"} if kind == "multi-model" else {}
    config = stage(endpoint={"kind": kind, **cpu}, scaling={"minimum": 0} if kind == "async" else {})
    recorder = Recorder()
    apply(config, recorder=recorder)
    assert writes_of(apply, config) == []
    (isolated,) = [call.parameters["EnableNetworkIsolation"] for call in recorder.calls if call.operation == "CreateModel"]
    assert isolated == (kind == "async"), "AWS refuses it for serverless endpoints, and later models need the network"
    destroy()
    assert not any(everything().values())


def test_an_address_that_comes_back_finds_its_permissions(aws):
    """Lambda keeps them when an address is deleted, and refuses a second statement of the same name."""
    apply(stage(**FULL))
    apply(stage())
    written = writes_of(apply, stage(**FULL))
    assert "lambda:CreateFunctionUrlConfig" in written
    assert "lambda:AddPermission" not in written


def test_defaults_that_aws_adds_to_a_scaling_policy_are_no_drift():
    seen = {"TargetValue": 30.0, "DisableScaleIn": False}
    assert autoscaling.known(seen, {"TargetValue": 30.0}) == {"TargetValue": 30.0}
    assert autoscaling.known(seen, {"TargetValue": 30.0, "ScaleInCooldown": 30}) != {"TargetValue": 30.0}


def step_by_step(run, limit=80):
    """Run, allowed one mutating call each time and killed at the next; the number of runs until one comes through."""
    for attempt in range(1, limit):
        recorder = Recorder(kill_at_write=2)
        try:
            run(recorder=recorder)
        except Killed:
            continue
        return attempt
    pytest.fail(f"not done after {limit} runs that each wrote once")
    return None


def test_killed_after_every_single_call_apply_and_destroy_still_come_through(aws):
    """Each state that an interruption can leave is the start of the next run; a run that undid work would never end."""
    config = stage(**FULL)
    apply(config)
    want, steps = everything(), len(writes_of(destroy))
    assert step_by_step(lambda recorder: apply(config, recorder=recorder)) > 40
    assert everything() == want
    assert {step.action for step in plan(config)} == {"keep"}
    assert step_by_step(destroy) == steps
    assert not any(everything().values())


def test_killed_after_every_single_call_a_release_still_comes_through(aws):
    after = stage(endpoint={"instance_type": "ml.g4dn.2xlarge"}, function={"memory_mb": 1024})
    apply()
    assert step_by_step(lambda recorder: apply(after, "b", recorder)) >= 10
    assert {step.action for step in plan(after, "b")} == {"keep"}
    assert endpoint()["EndpointStatus"] == "InService"


def test_credentials_of_another_account_are_refused(aws):
    with pytest.raises(Refused, match="belong to account 123456789012"):
        _ = context(stage(stage={"account": "999999999999"})).names
