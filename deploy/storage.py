"""The stage's bucket: private, TLS only, encrypted, versioned, with a lifecycle. Data, checkpoints, models, captures."""

import json
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from deploy.context import Context
from deploy.engine import Changes, Resource, State, found
from deploy.errors import DeployError, Refused, code_of

DATA, TRAINING, CHECKPOINTS, MODELS = "data", "training", "checkpoints", "models"
CAPTURE, ASYNC, TRANSFORM, EC2, INBOX = "capture", "async", "transform", "ec2", "inbox"
_NOTHING_PUBLIC = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def our_tags(seen: list[dict[str, str]], wanted: dict[str, str]) -> dict[str, str]:
    """Of the tags seen, those that we set: an organisation's own tags are none of our business."""
    return {tag["Key"]: tag["Value"] for tag in seen if tag["Key"] in wanted}


def delete_objects(s3: Any, where: dict[str, str], objects: list[dict[str, str]]) -> None:
    """`where`: Names.in_bucket. Raises DeployError naming what S3 did not delete: it says so in an answer that is a success."""
    for start in range(0, len(objects), 1000):
        answer = s3.delete_objects(**where, Delete={"Objects": objects[start : start + 1000], "Quiet": True})
        if errors := answer.get("Errors"):
            first = errors[0]
            told = f"{first.get('Key')}: {first.get('Code')} {first.get('Message', '')}".rstrip()
            hint = "run the same command again; if it is denied, `python -m deploy policies` prints what this identity needs"
            raise DeployError(f"bucket/{where['Bucket']}", f"{len(errors)} objects were not deleted, {told}", hint=hint)


class Bucket(Resource):
    """Deleted only with `--delete-data`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._s3 = context.client("s3")
        self._name, self._where = self.names.bucket, self.names.in_bucket

    @property
    def key(self) -> str:
        return f"bucket/{self._name}"

    def desired(self) -> State:
        return {
            "public_access": _NOTHING_PUBLIC,
            "encryption": self._encryption(),
            "versioning": "Enabled",
            "lifecycle": self._lifecycle(),
            "tags": self.context.tags,
            "policy": self._policy(),
        }

    def observe(self) -> State | None:
        if not self._there():
            return None
        bucket = self._where
        access = found(self._s3.get_public_access_block, **bucket)
        lifecycle = found(self._s3.get_bucket_lifecycle_configuration, **bucket)
        policy = found(self._s3.get_bucket_policy, **bucket)
        return {
            "public_access": access and access["PublicAccessBlockConfiguration"],
            "encryption": self._encryption_seen(),
            "versioning": self._s3.get_bucket_versioning(**bucket).get("Status"),
            "lifecycle": lifecycle and sorted((_plain_rule(rule) for rule in lifecycle["Rules"]), key=_rule_id),
            "tags": our_tags(self._tags(), self.context.tags),
            "policy": policy and json.loads(policy["Policy"]),
        }

    def check(self) -> None:
        """Raises Refused for a key that is given up without being listed: nobody could read the live model any more."""
        default = (self._encryption_seen() or {}).get("ApplyServerSideEncryptionByDefault", {})
        seen, security = str(default.get("KMSMasterKeyID", "")), self.context.config.security
        if ":key/" in seen and seen not in (security.kms_key_arn, *security.earlier_kms_key_arns):
            problem = f"is encrypted with {seen}, which the stage's file no longer names: nobody could read what is in it"
            hint = "list that key in [security] earlier_kms_key_arns for as long as anything it encrypted is used"
            raise Refused(self.key, problem, hint=hint)

    def create(self) -> None:
        where = {"LocationConstraint": self.names.region}
        extra = {} if self.names.region == "us-east-1" else {"CreateBucketConfiguration": where}  # us-east-1 refuses it
        request = {"Bucket": self._name, "ObjectOwnership": "BucketOwnerEnforced"} | extra
        self.context.patiently(self.key, lambda: self._s3.create_bucket(**request))
        for name in self.desired():
            self.context.patiently(self.key, partial(self._put, name))

    def update(self, changes: Changes) -> None:
        for name in changes:
            self._put(name)

    def _put(self, name: str) -> None:
        """`policy` is last: until it stands, everything else that is private already is."""
        value, s3 = self.desired()[name], self._s3
        if name == "public_access":
            s3.put_public_access_block(**self._where, PublicAccessBlockConfiguration=value)
        elif name == "encryption":
            s3.put_bucket_encryption(**self._where, ServerSideEncryptionConfiguration={"Rules": [value]})
        elif name == "versioning":
            s3.put_bucket_versioning(**self._where, VersioningConfiguration={"Status": value})
        elif name == "lifecycle":
            s3.put_bucket_lifecycle_configuration(**self._where, LifecycleConfiguration={"Rules": value})
        elif name == "tags":
            others = {tag["Key"]: tag["Value"] for tag in self._tags()}  # the call replaces them all
            s3.put_bucket_tagging(**self._where, Tagging={"TagSet": tag_list(others | value)})
        elif name == "policy":
            s3.put_bucket_policy(**self._where, Policy=json.dumps(value))

    def delete(self) -> None:
        """With every object and version in it."""
        pages = self._s3.get_paginator("list_object_versions").paginate(**self._where)
        for page in pages:
            rows = page.get("Versions", []) + page.get("DeleteMarkers", [])
            keys = [{"Key": row["Key"], "VersionId": row["VersionId"]} for row in rows]
            delete_objects(self._s3, self._where, keys)
        self._s3.delete_bucket(**self._where)

    def _there(self) -> bool:
        """Raises Refused where the name is somebody else's: nothing of ours may go there."""
        try:
            return found(self._s3.head_bucket, **self._where) is not None
        except ClientError as error:
            if code_of(error) not in ("403", "AccessDenied"):  # a HEAD has no body that could say more
                raise
            problem = f"belongs to another account than {self.names.account}, or this identity may not look at it"
            hint = "`python -m deploy policies` prints the policy `watch`, which may; another's bucket: change [stage] project"
            raise Refused(self.key, problem, hint=hint) from error

    def _tags(self) -> list[dict[str, str]]:
        return list((found(self._s3.get_bucket_tagging, **self._where) or {"TagSet": []})["TagSet"])

    def _encryption(self) -> State:
        key = self.context.config.security.kms_key_arn
        if key:
            default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
            return {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}
        return {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}

    def _encryption_seen(self) -> State | None:
        answer = found(self._s3.get_bucket_encryption, **self._where)
        rules = answer["ServerSideEncryptionConfiguration"]["Rules"] if answer else []
        if not rules:
            return None
        return {
            "ApplyServerSideEncryptionByDefault": rules[0].get("ApplyServerSideEncryptionByDefault"),
            "BucketKeyEnabled": rules[0].get("BucketKeyEnabled", False),
        }

    def _lifecycle(self) -> list[State]:
        storage = self.context.config.storage
        rules = [
            _expire("checkpoints", CHECKPOINTS, storage.checkpoint_days) | _gone_after(1),  # nobody restores half a training
            _expire("captures", CAPTURE, storage.capture_days),
            _expire("async", ASYNC, storage.capture_days),
            {
                "ID": "tidy",
                "Status": "Enabled",
                "Filter": {"Prefix": ""},
                "Expiration": {"ExpiredObjectDeleteMarker": True},  # what is left of an object whose versions are gone
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
            }
            | _gone_after(storage.noncurrent_days),
        ]
        return sorted(rules, key=_rule_id)

    def _policy(self) -> State:
        return {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "TlsOnly",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [self.names.s3_arn(), self.names.s3_arn("*")],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        }


def _expire(rule_id: str, prefix: str, days: int) -> State:
    return {"ID": rule_id, "Status": "Enabled", "Filter": {"Prefix": f"{prefix}/"}, "Expiration": {"Days": days}}


def _gone_after(days: int) -> State:
    """Of two rules for one object S3 follows the one that expires it sooner (S3 user guide, "Conflicts" of lifecycle rules)."""
    return {"NoncurrentVersionExpiration": {"NoncurrentDays": days}}


def _rule_id(rule: State) -> str:
    return str(rule["ID"])


def _plain_rule(rule: Any) -> State:
    """S3 answers an all-objects filter in two spellings."""
    return {name: value for name, value in rule.items() if name != "Filter"} | {"Filter": rule.get("Filter") or {"Prefix": ""}}
