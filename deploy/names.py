"""Every name is a pure function of project, stage, account, region and content: nothing has to be remembered anywhere.

Names start with `<project>-<stage>` so that least-privilege policies can be written before anything exists.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import botocore.session

VARIANT = "main"  # blue/green updates need the variant to keep its name
ALIAS = "live"


def content_id(document: Any) -> str:
    """Ten hex digits that change when any part of `document` (JSON) changes: content-addressed names are immutable."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


@cache
def partition_of(region: str) -> str:
    """aws, aws-cn, aws-us-gov …; from botocore's own table, by pattern for regions newer than it."""
    return str(botocore.session.get_session().get_partition_for_region(region))


@cache
def dns_suffix_of(partition: str) -> str:
    """amazonaws.com, amazonaws.com.cn …: the end of host names and of service principals' hosts."""
    table = botocore.session.get_session().get_component("data_loader").load_data("endpoints")
    return str(next(row["dnsSuffix"] for row in table["partitions"] if row["partition"] == partition))


@dataclass(frozen=True, kw_only=True)
class Names:
    project: str
    stage: str
    account: str
    region: str
    partition: str = "aws"
    dns_suffix: str = "amazonaws.com"

    @property
    def base(self) -> str:
        return f"{self.project}-{self.stage}"

    @property
    def tags(self) -> dict[str, str]:
        """On everything. `destroy` proves with them that nothing is left; policies condition on `project`."""
        return {"project": self.project, "stage": self.stage}

    # storage
    @property
    def bucket(self) -> str:
        return f"{self.base}-{self.account}-{self.region}"

    @property
    def in_bucket(self) -> dict[str, str]:
        """Arguments of every S3 call about it: its name can be guessed, so somebody else may have taken it first."""
        return {"Bucket": self.bucket, "ExpectedBucketOwner": self.account}

    def in_any(self, bucket: str) -> dict[str, str]:
        """The same for a bucket that may be another one."""
        return self.in_bucket if bucket == self.bucket else {"Bucket": bucket}

    def uri(self, *parts: str) -> str:
        """`s3://bucket/a/b`."""
        return "/".join([f"s3://{self.bucket}", *parts])

    # images
    @property
    def registry(self) -> str:
        return f"{self.account}.dkr.ecr.{self.region}.{self.dns_suffix}"

    def repository(self, image: str) -> str:
        """`image` is train or serve."""
        return f"{self.project}/{self.stage}/{image}"

    # principals
    def role(self, principal: str) -> str:
        """`principal` is one of `iam.PRINCIPALS`."""
        return f"{self.base}-{principal}"

    def role_arn(self, principal: str) -> str:
        return self.arn("iam", f"role/{self.role(principal)}", region="")

    @property
    def boundary_arn(self) -> str:
        return self.arn("iam", f"policy/{self.base}-boundary", region="")

    # serving
    @property
    def endpoint(self) -> str:
        return self.base

    @property
    def variant_resource(self) -> str:
        """How Application Auto Scaling calls the endpoint's variant."""
        return f"endpoint/{self.endpoint}/variant/{VARIANT}"

    @property
    def function(self) -> str:
        return f"{self.base}-invoke"

    @property
    def function_log_group(self) -> str:
        return f"/aws/lambda/{self.function}"

    @property
    def endpoint_log_group(self) -> str:
        """SageMaker writes there, and would make it where it is not."""
        return f"/aws/sagemaker/Endpoints/{self.endpoint}"

    @property
    def ec2_release(self) -> str:
        """What the name of every release on EC2 begins with."""
        return f"{self.base}-serve-"

    @property
    def ec2_log_group(self) -> str:
        return f"/{self.project}/{self.stage}/ec2"

    def alarm(self, what: str) -> str:
        return f"{self.base}-{what}"

    def is_content_name(self, name: str) -> bool:
        """Whether `content_name` may have made it, for this stage and no other that only looks alike."""
        return re.fullmatch(re.escape(self.base) + r"-[0-9a-f]{10}", name) is not None

    def content_name(self, document: Any) -> str:
        """A model's or endpoint configuration's name: SageMaker allows 63 characters."""
        return f"{self.base}-{content_id(document)}"

    def arn(self, service: str, resource: str, *, region: str | None = None, account: str | None = None) -> str:
        """`region=""` and `account=""` for services that leave them out (IAM; S3 both)."""
        where = self.region if region is None else region
        who = self.account if account is None else account
        return f"arn:{self.partition}:{service}:{where}:{who}:{resource}"

    def s3_arn(self, key: str = "") -> str:
        return f"arn:{self.partition}:s3:::{self.bucket}" + (f"/{key}" if key else "")

    def service(self, name: str) -> str:
        """A service principal: `sagemaker.amazonaws.com` in every partition but EC2's in China."""
        return f"{name}.{self.dns_suffix}" if name == "ec2" else f"{name}.amazonaws.com"
