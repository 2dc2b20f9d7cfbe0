"""AWS limits names, documents and tags; all of ours grow with the project's and the stage's name. The longest of both fit."""

import argparse
import json

import pytest

from containers.train.config import TrainConfig
from deploy import ec2_launch, ec2_serving, iam, policies, stack, training
from deploy.ec2_network import SecurityGroup
from deploy.ec2_request import run_instances, training_machine
from deploy.training_request import training_job
from tests.support import aws as fake
from tests.support.applied import FULL

PROJECT, STAGE = "a-project-of-twenty1", "tenletters"
KEY = f"arn:aws:kms:{fake.REGION}:{fake.ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
MOST = FULL | {
    "security": {"kms_key_arn": KEY, "subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"]},
    "ec2": {"instance_count": 2, "spot": True},
}


def longest(**tables):
    """A stage of the longest names that its file may have."""
    config = fake.stage(STAGE, **({"stage": {"project": PROJECT}} | tables))
    assert (len(config.stage.project), len(config.name)) == (20, 10)
    return config


@pytest.mark.parametrize("region", ["ap-southeast-1", "us-gov-west-1", "cn-northwest-1"])
def test_every_document_fits_one_managed_policy(region):
    config = longest(**(MOST | {"stage": {"project": PROJECT, "region": region}}))
    scope = iam.Scope.of(fake.context(config).names_in(fake.ACCOUNT), config)
    documents = {name: text for name, text in policies.every_document(scope).items() if not name.startswith("trust-")}
    sizes = {name: len(json.dumps(text, separators=(",", ":"))) for name, text in documents.items()}
    assert {name: size for name, size in sizes.items() if size > policies.MANAGED} == {}
    for name, text in documents.items():
        sids = [row["Sid"] for row in text["Statement"]]
        assert len(set(sids)) == len(sids), f"{name}: IAM wants each Sid once"
        assert all(sid.isascii() and sid.isalnum() for sid in sids), f"{name}: IAM takes letters and digits only"


def test_a_stage_is_applied_and_destroyed(aws):
    config = longest(**{table: values for table, values in MOST.items() if table != "security"})
    list(stack.engine(fake.context(config), fake.release()).apply())
    list(stack.removal(fake.context(config), delete_data=True).destroy())
    assert not any(fake.everything().values())


def arguments() -> argparse.Namespace:
    image = f"{fake.ACCOUNT}.dkr.ecr.{fake.REGION}.amazonaws.com/{PROJECT}/{STAGE}/train@sha256:" + "a" * 64
    return argparse.Namespace(image=image, data="dogs", set=[])


def run_of(context):
    bucket = context.names.bucket
    where = {"CreateBucketConfiguration": {"LocationConstraint": fake.REGION}}
    fake.client("s3").create_bucket(Bucket=bucket, **where)
    fake.client("s3").put_object(Bucket=bucket, Key="data/dogs/train/pug/a.jpg", Body=b"x")
    return training.describe(arguments(), context)


def test_a_training_job_is_taken(aws):
    context = fake.context(longest())
    fake.client("sagemaker").create_training_job(**training_job(context.config, context.names, run_of(context), context.tags))


def test_instances_start(aws):
    context = fake.context(longest(ec2=MOST["ec2"]))
    fake.client("iam").create_instance_profile(InstanceProfileName=context.names.role("ec2"))
    fake.client("iam").create_instance_profile(InstanceProfileName=context.names.role("ec2serve"))
    this, where = run_of(context), {"image_id": "ami-12c6146b", "root_device": "/dev/xvda"}
    assert TrainConfig() == this.hyperparameters

    def trains(group_id):
        return training_machine(context.config, context.names, **where, group_id=group_id)

    def serves(group_id):
        return ec2_serving.serving_machine(context.config, context.names, **where, group_id=group_id)

    request = run_instances(context.config, context.names, this, context.tags)
    assert ec2_launch.start(context, this.name, SecurityGroup(context, "train"), trains, request)
    name = f"{context.names.ec2_release}20261122-000000-ab12"
    served = ec2_serving.run_instances(context.config, context.names, name, fake.release(), context.tags)
    assert ec2_launch.start(context, name, ec2_serving.group(context), serves, served)
