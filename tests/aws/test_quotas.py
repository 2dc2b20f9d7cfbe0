"""Quotas are looked at before the first write, and the refusal says which, and how to ask for more."""

from contextlib import nullcontext

import pytest
from botocore.exceptions import ClientError

from deploy import quotas, stack
from deploy.errors import DeployError, Refused
from tests.support import moto_ext, moto_quotas
from tests.support.applied import apply
from tests.support.aws import Instead, Recorder, client, context, everything, release, stage

ENDPOINT = "ml.g4dn.xlarge for endpoint usage"
G, G_SPOT, STANDARD = "L-DB2E81BA", "L-3819A6DF", "L-1216C47A"
P, P_SPOT, P5_SPOT = "L-417A185B", "L-7212CCBC", "L-C4BD4855"


def check(config=None, which="b"):
    ctx = context(config)
    engine = stack.engine(ctx, release(which))
    engine.check(engine.plan())
    return ctx.console.text


def test_an_endpoint_without_a_quota_is_refused_before_the_first_write(aws):
    moto_ext.QUOTAS[ENDPOINT] = 0
    with pytest.raises(Refused, match=r"needs 1 × ml\.g4dn\.xlarge, but the account's quota 'ml") as caught:
        check()
    assert "request-service-quota-increase --region eu-west-1 --service-code sagemaker --quota-code L-" in caught.value.hint
    assert "--desired-value 1" in caught.value.hint
    assert not any(everything().values())


def test_what_aws_gives_everybody_counts_where_the_account_has_no_own_value(aws):
    moto_quotas.DEFAULT[ENDPOINT] = 0
    with pytest.raises(Refused, match="is 0"):
        check()
    moto_ext.QUOTAS[ENDPOINT] = 4
    assert "quota" not in check()


def test_a_maximum_beyond_the_quota_is_said(aws):
    moto_ext.QUOTAS[ENDPOINT] = 2
    assert "is 2: scaling cannot reach its maximum of 4" in " ".join(check().split())
    assert "quota" not in check(stage(scaling={"profile": "none"}))


def test_a_new_release_needs_room_beside_the_old_one(aws):
    apply()
    counts = [{"VariantName": "main", "DesiredInstanceCount": 3}]
    client("sagemaker").update_endpoint_weights_and_capacities(EndpointName="kennel-dev", DesiredWeightsAndCapacities=counts)
    moto_ext.QUOTAS[ENDPOINT] = 5
    with pytest.raises(Refused, match="needs 6 × ml"):
        check()
    other = "ml.g4dn.2xlarge for endpoint usage"
    moto_ext.QUOTAS[other] = 3
    check(stage(endpoint={"instance_type": "ml.g4dn.2xlarge"}))  # another type has another quota
    moto_ext.QUOTAS[other] = 2
    with pytest.raises(Refused, match=r"needs 3 × ml\.g4dn\.2xlarge"):
        check(stage(endpoint={"instance_type": "ml.g4dn.2xlarge"}))  # and an update keeps the number of instances


def test_a_first_release_that_failed_makes_room_for_the_next(aws):
    """It is deleted before the new one is made: one instance is enough, and another kind of endpoint too."""
    moto_ext.QUOTAS[ENDPOINT] = 1
    moto_ext.FAIL["kennel-dev"] = "the container did not answer"
    with pytest.raises(DeployError, match="ended as Failed"):
        apply()
    check()
    check(stage(endpoint={"kind": "async"}, function={"enabled": False}))
    apply(which="b")
    assert client("sagemaker").describe_endpoint(EndpointName="kennel-dev")["EndpointStatus"] == "InService"
    with pytest.raises(Refused, match="needs 2 × ml"):
        check(which="a")


def test_nothing_is_asked_where_the_endpoint_stays(aws):
    apply()
    moto_ext.QUOTAS[ENDPOINT] = 0
    check(which="a")


def test_serverless_counts_no_instances(aws):
    moto_ext.QUOTAS[ENDPOINT] = 0
    check(stage(endpoint={"kind": "serverless"}))


@pytest.mark.parametrize(
    ("kind", "spot", "quota", "value", "ok"),
    [
        ("g4dn.2xlarge", False, G, 16, True),
        ("g4dn.2xlarge", False, G, 15, False),
        ("g4dn.2xlarge", True, G, 0, True),  # spot has a quota of its own
        ("g4dn.2xlarge", True, G_SPOT, 15, False),
        ("c5.large", False, STANDARD, 3, False),
        ("c5.large", False, G, 0, True),
        ("p5.48xlarge", True, P5_SPOT, 383, False),
        ("p5.48xlarge", True, P_SPOT, 0, True),  # the one of P4, P3 and P2
        ("p5.48xlarge", False, P, 383, False),  # on demand there is one for all of them
        ("p4d.24xlarge", True, P_SPOT, 191, False),
        ("inf2.xlarge", False, STANDARD, 0, True),  # a family that is not known here: AWS decides
    ],
)
def test_vcpus_of_a_family(aws, kind, spot, quota, value, ok):
    moto_ext.QUOTAS[quota] = value
    refusal = pytest.raises(Refused, match=f"--service-code ec2 --quota-code {quota}")
    with nullcontext() if ok else refusal:
        quotas.require_vcpus(context(), "run r1", kind, 2, spot=spot)


def test_vcpus_that_run_already_are_counted(aws):
    client("ec2").run_instances(ImageId="ami-12c6146b", InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1)
    moto_ext.QUOTAS[G] = 8
    quotas.require_vcpus(context(), "run r1", "g4dn.xlarge", 1, spot=False)
    with pytest.raises(Refused, match=r"2 × g4dn\.xlarge \(8 vCPUs, 4 more in use\)") as caught:
        quotas.require_vcpus(context(), "run r1", "g4dn.xlarge", 2, spot=False)
    assert "Running On-Demand G and VT instances" in str(caught.value)
    assert "--desired-value 12" in caught.value.hint


class Failing:
    """Service Quotas that answers with an error."""

    def __init__(self, code: str) -> None:
        self.code = code

    def get_service_quota(self, **_):
        raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, "GetServiceQuota")


def test_who_may_not_read_quotas_goes_on_and_is_told():
    ctx = context(session=Instead(Failing("AccessDeniedException")))
    quotas.require_vcpus(ctx, "run r1", "g4dn.xlarge", 1, spot=False)
    assert "may not read quotas" in ctx.console.text


@pytest.mark.parametrize("code", ["TooManyRequestsException", "ThrottlingException"])
def test_who_reads_quotas_too_often_goes_on_and_is_told(code):
    ctx = context(session=Instead(Failing(code)))
    quotas.require_vcpus(ctx, "run r1", "g4dn.xlarge", 1, spot=False)
    assert "limits how often quotas are read just now: going on without" in " ".join(ctx.console.text.split())


def test_what_is_wrong_with_quotas_otherwise_is_an_error():
    ctx = context(session=Instead(Failing("InternalError")))
    with pytest.raises(DeployError, match="InternalError"):
        quotas.require_vcpus(ctx, "run r1", "g4dn.xlarge", 1, spot=False)


def test_a_plan_says_what_apply_would_refuse_and_writes_nothing(deploy):
    moto_ext.ACCOUNT.update(ConcurrentExecutions=10, UnreservedConcurrentExecutions=10)
    recorder = Recorder()
    code, planned, err = deploy("plan", recorder=recorder)
    assert code == 0, err
    assert "10 are free of 10" in planned["refused"]
    assert recorder.writes == []
