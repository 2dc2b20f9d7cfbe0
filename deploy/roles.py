"""Roles with their inline policy and boundary, the boundary itself, and EC2's instance profile."""

import json
from collections.abc import Callable
from typing import Any

from deploy import iam
from deploy.context import Context
from deploy.engine import Changes, Resource, State, found
from deploy.storage import our_tags, tag_list

INLINE = "kennel"


class Boundary(Resource):
    """A managed policy; a change is a new version, and the oldest of five goes."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._iam = context.client("iam")
        self._document = iam.boundary(iam.Scope.of(self.names, context.config))
        self._arn = self.names.boundary_arn

    @property
    def key(self) -> str:
        return f"boundary/{self.names.base}-boundary"

    def desired(self) -> State:
        return {"document": self._document, "tags": self.context.tags}

    def observe(self) -> State | None:
        policy = found(self._iam.get_policy, PolicyArn=self._arn)
        if policy is None:
            return None
        version = self._iam.get_policy_version(PolicyArn=self._arn, VersionId=policy["Policy"]["DefaultVersionId"])
        tags = our_tags(policy["Policy"].get("Tags", []), self.context.tags)
        return {"document": _plain(version["PolicyVersion"]["Document"]), "tags": tags}

    def create(self) -> None:
        self._iam.create_policy(
            PolicyName=f"{self.names.base}-boundary",
            PolicyDocument=json.dumps(self._document),
            Description="The most that any role of this stage can do",
            Tags=tag_list(self.context.tags),
        )

    def update(self, changes: Changes) -> None:
        if "tags" in changes:
            self._iam.tag_policy(PolicyArn=self._arn, Tags=tag_list(self.context.tags))
        if "document" not in changes:
            return
        old = self._old_versions()
        if len(old) == 4:
            self._iam.delete_policy_version(PolicyArn=self._arn, VersionId=old[-1])
        document = json.dumps(self._document)
        self._iam.create_policy_version(PolicyArn=self._arn, PolicyDocument=document, SetAsDefault=True)

    def delete(self) -> None:
        for version in self._old_versions():
            self._iam.delete_policy_version(PolicyArn=self._arn, VersionId=version)
        self._iam.delete_policy(PolicyArn=self._arn)

    def _old_versions(self) -> list[str]:
        """Newest first, without the one in force."""
        versions = self._iam.list_policy_versions(PolicyArn=self._arn)["Versions"]
        return [version["VersionId"] for version in versions if not version["IsDefaultVersion"]]


class Role(Resource):
    def __init__(self, context: Context, principal: str) -> None:
        super().__init__(context)
        self._iam = context.client("iam")
        self._name = self.names.role(principal)
        self._scope = iam.Scope.of(self.names, context.config)
        self._trust = iam.trust(self._scope, principal)
        self._policy = iam.role_policy(self._scope, principal)

    @property
    def key(self) -> str:
        return f"role/{self._name}"

    def desired(self) -> State:
        """`others`: whatever else somebody gave it; what it may do is in our document and nowhere else."""
        ours: State = {"boundary": self._scope.boundary, "trust": self._trust, "policy": self._policy, "others": []}
        return ours | {"tags": self.context.tags}

    def observe(self) -> State | None:
        answer = found(self._iam.get_role, RoleName=self._name)
        if answer is None:
            return None
        role = answer["Role"]
        inline = found(self._iam.get_role_policy, RoleName=self._name, PolicyName=INLINE)
        return {
            "boundary": role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn"),
            "trust": _plain(role["AssumeRolePolicyDocument"]),
            "policy": inline and _plain(inline["PolicyDocument"]),
            "others": sorted([*self._attached(), *(name for name in self._inline() if name != INLINE)]),
            "tags": our_tags(role.get("Tags", []), self.context.tags),
        }

    def create(self) -> None:
        limit = {"PermissionsBoundary": self._scope.boundary} if self._scope.boundary else {}
        role = {"RoleName": self._name, "AssumeRolePolicyDocument": json.dumps(self._trust), **limit}
        tags = tag_list(self.context.tags)
        self._bounded(lambda: self._iam.create_role(**role, Tags=tags))
        self.context.patiently(self.key, self._put_policy)

    def update(self, changes: Changes) -> None:
        if "boundary" in changes and self._scope.boundary:
            wanted = {"RoleName": self._name, "PermissionsBoundary": self._scope.boundary}
            self._bounded(lambda: self._iam.put_role_permissions_boundary(**wanted))
        elif "boundary" in changes:
            self._iam.delete_role_permissions_boundary(RoleName=self._name)
        if "trust" in changes:
            self._iam.update_assume_role_policy(RoleName=self._name, PolicyDocument=json.dumps(self._trust))
        if "policy" in changes:
            self._put_policy()
        if "others" in changes:
            self._strip(keep=INLINE)
        if "tags" in changes:
            self._iam.tag_role(RoleName=self._name, Tags=tag_list(self.context.tags))

    def delete(self) -> None:
        self._strip()
        self._iam.delete_role(RoleName=self._name)

    def _bounded(self, call: Callable[[], Any]) -> None:
        """Our boundary may have been made a moment ago; the organisation's is there, or its name is wrong."""
        if self.context.config.security.boundary_arn:
            call()
        else:
            self.context.patiently("the boundary", call)

    def _strip(self, keep: str | None = None) -> None:
        """IAM deletes no role that still has policies."""
        for arn in self._attached():
            self._iam.detach_role_policy(RoleName=self._name, PolicyArn=arn)
        for policy in self._inline():
            if policy != keep:
                self._iam.delete_role_policy(RoleName=self._name, PolicyName=policy)

    def _attached(self) -> list[str]:
        pages = self._iam.get_paginator("list_attached_role_policies").paginate(RoleName=self._name)
        return [str(row["PolicyArn"]) for page in pages for row in page["AttachedPolicies"]]

    def _inline(self) -> list[str]:
        pages = self._iam.get_paginator("list_role_policies").paginate(RoleName=self._name)
        return [str(name) for page in pages for name in page["PolicyNames"]]

    def _put_policy(self) -> None:
        self._iam.put_role_policy(RoleName=self._name, PolicyName=INLINE, PolicyDocument=json.dumps(self._policy))


class InstanceProfile(Resource):
    """What carries a role to an instance."""

    def __init__(self, context: Context, principal: str) -> None:
        super().__init__(context)
        self._iam = context.client("iam")
        self._name = self.names.role(principal)

    @property
    def key(self) -> str:
        return f"instance-profile/{self._name}"

    def desired(self) -> State:
        return {"role": self._name, "tags": self.context.tags}

    def observe(self) -> State | None:
        answer = found(self._iam.get_instance_profile, InstanceProfileName=self._name)
        if answer is None:
            return None
        profile = answer["InstanceProfile"]
        role = profile["Roles"][0]["RoleName"] if profile["Roles"] else None
        return {"role": role, "tags": our_tags(profile.get("Tags", []), self.context.tags)}

    def create(self) -> None:
        self._iam.create_instance_profile(InstanceProfileName=self._name, Tags=tag_list(self.context.tags))
        self._add_role()

    def update(self, changes: Changes) -> None:
        if "tags" in changes:
            self._iam.tag_instance_profile(InstanceProfileName=self._name, Tags=tag_list(self.context.tags))
        if "role" not in changes:
            return
        if other := changes["role"].seen:
            self._iam.remove_role_from_instance_profile(InstanceProfileName=self._name, RoleName=other)
        self._add_role()

    def delete(self) -> None:
        seen = self.observe()
        if seen and seen["role"]:
            self._iam.remove_role_from_instance_profile(InstanceProfileName=self._name, RoleName=seen["role"])
        self._iam.delete_instance_profile(InstanceProfileName=self._name)

    def _add_role(self) -> None:
        both = {"InstanceProfileName": self._name, "RoleName": self._name}
        self.context.patiently(self.key, lambda: self._iam.add_role_to_instance_profile(**both))


def _plain(policy: Any) -> Any:
    """boto3 gives documents decoded; some fakes give text."""
    return json.loads(policy) if isinstance(policy, str) else policy
