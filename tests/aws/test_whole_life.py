"""From an empty account to an empty account, with everything on, through the command line."""

import pytest

from tests.support import moto_ext
from tests.support.aws import client
from tests.support.leftovers import held, more
from tests.support.released import push, upload, will_answer

STAGE = """
[stage]
region = "eu-west-1"
owner = "vision"
price_ceiling_per_month = 5000
[security]
kms_key_arn = "{key}"
subnet_ids = ["{subnet}"]
security_group_ids = ["{group}"]
[endpoint]
capture_percent = 5
instance_type = "ml.g4dn.xlarge"
[rollout]
traffic = "linear"
percent = 20
[scaling]
profile = "seed"
maximum = 4
[[scaling.scheduled]]
name = "mornings"
schedule = "cron(0 7 ? * MON-FRI *)"
timezone = "Europe/Berlin"
minimum = 2
maximum = 6
[[scaling.scheduled]]
name = "evenings"
schedule = "cron(0 19 ? * * *)"
minimum = 1
maximum = 4
[function]
provisioned_concurrency = 3
provisioned_maximum = 6
reserved_concurrency = 30
url = true
cors_origins = ["https://dogs.example"]
[alarms]
topic_arn = "{topic}"
"""


@pytest.fixture
def everything_on(deploy):
    """What the stage uses is the user's own."""
    vpc = client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    own = {
        "key": client("kms").create_key()["KeyMetadata"]["Arn"],
        "topic": client("sns").create_topic(Name="on-call")["TopicArn"],
        "subnet": client("ec2").describe_subnets()["Subnets"][0]["SubnetId"],
        "group": client("ec2").create_security_group(GroupName="own", Description="own", VpcId=vpc)["GroupId"],
    }
    deploy.stage.write_text(STAGE.format(**own))
    return deploy


def served() -> str:
    return client("sagemaker").describe_endpoint(EndpointName="kennel-dev")["EndpointConfigName"]


def test_from_an_empty_account_to_an_empty_account_with_everything_on(everything_on):
    deploy = everything_on
    assert deploy("plan")[0] == 0  # every service is in use from here on, with what it holds by itself
    before = held()
    assert deploy("apply")[0] == 0
    good, artifact = push(content="good"), upload()
    will_answer()
    code, released, err = deploy("release", "--image", good, "--model-data", artifact)
    assert code == 0, err
    first = released["config"]

    code, status, _ = deploy("status")
    assert (code, status["endpoint"]["status"], status["endpoint"]["config"]) == (0, "InService", first)
    assert (status["endpoint"]["image"], status["function"]["warm"]) == (good, 3)
    assert len(status["alarms"]) == 4

    moto_ext.FAIL["kennel-dev"] = "alarm kennel-dev-endpoint-5xx went off"
    code, _, err = deploy("release", "--image", push(content="bad"))
    assert code == 1
    assert "rolled the update back" in err
    assert served() == first
    assert {step["action"] for step in deploy("apply")[1]["steps"]} == {"keep"}, "what failed is not tried again"

    will_answer()
    code, released, err = deploy("release", "--image", push(content="better"))
    assert code == 0, err
    assert served() == released["config"] != first
    assert deploy("rollback")[0] == 0
    assert served() == first
    assert {step["action"] for step in deploy("apply")[1]["steps"]} == {"keep"}

    services = {store.partition(" ")[0] for store in more(before, held())}
    assert services >= {"application-autoscaling", "cloudwatch", "ecr", "iam", "lambda", "logs", "s3", "sagemaker"}
    code, destroyed, err = deploy("destroy", "--yes", "--delete-data")
    assert code == 0, err
    assert destroyed["left"] == []
    filters = [{"Key": "project", "Values": ["kennel"]}]
    assert client("resourcegroupstaggingapi").get_resources(TagFilters=filters)["ResourceTagMappingList"] == []
    left = more(before, held())
    left.pop("sagemaker-runtime eu-west-1 results")  # what this test told the endpoint to answer
    assert left == {}
