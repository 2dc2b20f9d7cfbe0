"""The duty `ec2`: training and serving on instances. Nothing that does not carry the stage's tags is touched."""

from deploy.deployer_statements import key, key_of_disks, pass_role, service_linked
from deploy.iam import ON_INSTANCES, Scope, allow_s3
from deploy.iam_statements import Document, allow, document
from deploy.storage import EC2


def ec2(scope: Scope) -> Document:
    names = scope.names
    kinds_made = ("instance", "volume", "spot-instances-request", "security-group", "launch-template")
    made = [names.arn("ec2", f"{kind}/*") for kind in kinds_made]
    tagged = {"aws:RequestTag/project": names.project, "aws:RequestTag/stage": names.stage}
    ours = {"aws:ResourceTag/project": names.project, "aws:ResourceTag/stage": names.stage}
    kinds = {"ec2:InstanceType": list(scope.ec2_types)}
    describe = ["Images", "InstanceTypes", "LaunchTemplateVersions", "SecurityGroups", "Subnets"]
    public = scope.ami_parameter.startswith("/aws/service/")  # AWS's own belong to no account
    ami = names.arn("ssm", f"parameter{scope.ami_parameter}", account="" if public else None)
    return document(
        [pass_role(scope, principal) for principal in ON_INSTANCES],
        allow("Look", [f"ec2:Describe{what}" for what in describe], "*"),
        allow("Quotas", ["servicequotas:GetAWSDefaultServiceQuota", "servicequotas:GetServiceQuota"], "*"),
        allow("Ami", "ssm:GetParameter", ami),
        allow("RunTagged", "ec2:RunInstances", names.arn("ec2", "instance/*"),
              StringEquals=tagged | {"ec2:MetadataHttpTokens": "required"}, StringLike=kinds),
        allow("RunEncrypted", "ec2:RunInstances", names.arn("ec2", "volume/*"), Bool={"ec2:Encrypted": "true"}),
        allow("RunWith", "ec2:RunInstances", [
            names.arn("ec2", "image/*", account=""),
            *(names.arn("ec2", f"{kind}/*") for kind in (
                "network-interface", "security-group", "subnet", "spot-instances-request", "launch-template")),
        ]),
        allow("TagNew", "ec2:CreateTags", made,
              StringEquals={"ec2:CreateAction": ["RunInstances", "CreateSecurityGroup", "CreateLaunchTemplate"]}),
        allow("MakeTagged", ["ec2:CreateLaunchTemplate", "ec2:CreateSecurityGroup"],
              [names.arn("ec2", "launch-template/*"), names.arn("ec2", "security-group/*")], StringEquals=tagged),
        allow("InVpc", "ec2:CreateSecurityGroup", names.arn("ec2", "vpc/*")),
        allow("OursOnly", ["ec2:AuthorizeSecurityGroupIngress", "ec2:CreateLaunchTemplateVersion", "ec2:DeleteLaunchTemplate",
                           "ec2:DeleteSecurityGroup", "ec2:RevokeSecurityGroupIngress", "ec2:TerminateInstances"],
              [names.arn("ec2", f"{kind}/*") for kind in ("instance", "launch-template", "security-group")],
              StringEquals=ours),
        allow_s3(scope, "Runs", ["s3:GetObject", "s3:PutObject"], names.s3_arn(f"{EC2}/*")),
        service_linked(scope, "RoleOfSpot", "spot.amazonaws.com"),  # made by an account's first spot request
        key(scope),
        key_of_disks(scope),
    )  # fmt: skip
