"""Instances in a fake account, and the node that reports its health as user data would."""

import json

from tests.support.aws import ACCOUNT, REGION, client

BUCKET = f"kennel-dev-{ACCOUNT}-{REGION}"


def machines(*states: str) -> list[dict]:
    """DescribeInstances' rows; of all states where none is named."""
    reservations = client("ec2").describe_instances()["Reservations"]
    found = [row for reservation in reservations for row in reservation["Instances"]]
    return [row for row in found if not states or row["State"]["Name"] in states]


def end_training(interrupted: str = "") -> None:
    """Every instance that trains writes the report with which a node ends."""
    for row in machines("pending", "running"):
        tags = {tag["Key"]: tag["Value"] for tag in row["Tags"]}
        if "purpose" not in tags:
            told = {"run": tags["run"], "exit_code": 0, "interrupted": interrupted}
            key = f"ec2/{tags['run']}/status/algo-{row['AmiLaunchIndex'] + 1}.json"
            client("s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(told))


class Node:
    """`report` says for each instance that serves, and has said nothing yet, what `state` and `reason` are now."""

    def __init__(self) -> None:
        self.state, self.reason = "healthy", ""

    def report(self) -> None:
        for row in machines("pending", "running"):
            tags = {tag["Key"]: tag["Value"] for tag in row["Tags"]}
            key = f"ec2/{tags['run']}/status.json"
            if tags.get("purpose") == "serve" and not client("s3").list_objects_v2(Bucket=BUCKET, Prefix=key)["KeyCount"]:
                told = {"release": tags["run"], "instance": row["InstanceId"], "address": row["PrivateIpAddress"], "port": 8080}
                told |= {"state": self.state, "reason": self.reason, "at": "2026-11-22T00:00:00Z"}
                client("s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(told))
