"""The template for a security team says what apply does, and is CloudFormation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import export_cfn
from deploy.iam import PRINCIPALS
from deploy.storage import tag_list
from tests.support.aws import context, stage

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"


def test_the_linter_takes_the_template(aws, tmp_path):
    for name, security in (("with", {"kms_key_arn": KEY}), ("without", {"boundary": False})):
        made = export_cfn.template(context(stage(security=security)))
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, "--regions", "eu-west-1", "--", *tmp_path.glob("*.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_says_what_apply_does(aws):
    ctx = context()
    made = export_cfn.template(ctx)["Resources"]
    assert {f"Role{principal.capitalize()}" for principal in PRINCIPALS} <= set(made)
    assert made["RoleServe"]["Properties"]["PermissionsBoundary"] == ctx.names.boundary_arn
    assert made["Bucket"]["DeletionPolicy"] == "Retain"
    rules = {rule["Id"]: rule for rule in made["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]}
    assert rules["checkpoints"]["ExpirationInDays"] == 14
    assert rules["checkpoints"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
    assert rules["tidy"]["ExpiredObjectDeleteMarker"] is True
    assert made["RepositoryServe"]["Properties"]["ImageTagMutability"] == "IMMUTABLE"
    assert made["LogGroupEc2"]["Properties"]["Tags"] == tag_list(ctx.tags)


@pytest.mark.parametrize(
    ("key", "encryption"),
    [(None, {"EncryptionType": "AES256"}), (KEY, {"EncryptionType": "KMS", "KmsKey": KEY})],
)
def test_a_repository_made_of_the_template_is_encrypted_as_ours(aws, key, encryption):
    """ECR cannot change it afterwards."""
    made = export_cfn.template(context(stage(security={"kms_key_arn": key})))["Resources"]
    assert made["RepositoryServe"]["Properties"]["EncryptionConfiguration"] == encryption
