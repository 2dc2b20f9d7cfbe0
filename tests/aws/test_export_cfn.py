"""The template for a security team says what apply does, and is CloudFormation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import export_cfn
from deploy.iam import PRINCIPALS
from tests.support.aws import context, stage


def test_the_linter_takes_the_template(aws, tmp_path):
    pytest.importorskip("cfnlint", reason="cfn-lint is not installed")
    for name, boundary in (("with", True), ("without", False)):
        made = export_cfn.template(context(stage(security={"boundary": boundary})))
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
    assert made["RepositoryServe"]["Properties"]["ImageTagMutability"] == "IMMUTABLE"
