"""The launch template: what every instance of one purpose has.

No key, IMDSv2 only, an encrypted disk, a role of its own, a shutdown that ends the instance. RunInstances adds what differs
from run to run: how many, where, spot, tags, and the user data. A version is named after its content; one that exists is used
again.
"""

from collections.abc import Callable
from typing import Any

from deploy.config import StageConfig
from deploy.context import Context
from deploy.engine import Changes, Resource, State, found
from deploy.names import Names, content_id
from deploy.stage_tables import Ec2Serving
from deploy.storage import tag_list
from deploy.training_tables import Ec2


def launch_data(
    config: StageConfig,
    names: Names,
    machine: Ec2 | Ec2Serving,
    *,
    principal: str,
    image_id: str,
    root_device: str,
    group_id: str,
) -> State:
    """LaunchTemplateData. The id of the machine image, not `latest`: a version says exactly what it starts."""
    security = config.security
    volume: State = {"VolumeSize": machine.volume_gb, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    if security.kms_key_arn:
        volume["KmsKeyId"] = security.kms_key_arn
    return {
        "ImageId": image_id,
        "InstanceType": machine.instance_type,
        "IamInstanceProfile": {"Name": names.role(principal)},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [{"DeviceName": root_device, "Ebs": volume}],
        "SecurityGroupIds": [group_id, *security.security_group_ids],
    }


class LaunchTemplate(Resource):
    """`purpose` is train or serve. `data` makes LaunchTemplateData when it is asked for (it names a security group that may not
    exist before); None where only `delete` is called.
    """

    def __init__(self, context: Context, purpose: str, data: Callable[[], State] | None = None) -> None:
        super().__init__(context)
        self._ec2 = context.client("ec2")
        self._name = f"{self.names.base}-{purpose}"
        self._data = data or dict

    @property
    def key(self) -> str:
        return f"launch-template/{self._name}"

    def desired(self) -> State:
        return {"content": content_id(self._data())}

    def observe(self) -> State | None:
        versions = self._versions()
        if versions is None:
            return None
        wanted = self.desired()["content"]
        return {"content": wanted if wanted in versions else "of other versions"}

    def exists(self) -> bool:
        return self._versions() is not None

    def create(self) -> None:
        tags = [{"ResourceType": "launch-template", "Tags": tag_list(self.context.tags)}]
        self._ec2.create_launch_template(LaunchTemplateName=self._name, TagSpecifications=tags, **self._version())

    def update(self, changes: Changes) -> None:
        del changes  # a version cannot be changed, only another one made
        self._ec2.create_launch_template_version(LaunchTemplateName=self._name, **self._version())

    def delete(self) -> None:
        self._ec2.delete_launch_template(LaunchTemplateName=self._name)

    def named(self) -> dict[str, str]:
        """RunInstances' LaunchTemplate: the version that has the wanted content. EC2 lists a new one with some delay.

        Raises TimedOut.
        """
        wanted, number = self.desired()["content"], ""

        def listed() -> str:
            nonlocal number
            number = str((self._versions() or {}).get(wanted, ""))
            return "there" if number else "absent"

        self.context.wait(f"{self.key} to be listed", listed, until={"there"}, limit_seconds=60, every_seconds=3)
        return {"LaunchTemplateName": self._name, "Version": number}

    def planned(self) -> State:
        """What `create` or `update` would send."""
        return {"LaunchTemplateName": self._name, **self._version()}

    def _version(self) -> State:
        return {"LaunchTemplateData": self._data(), "VersionDescription": self.desired()["content"]}

    def _versions(self) -> dict[str, int] | None:
        """Content → version number; None where there is no template."""

        def read() -> list[dict[str, Any]]:
            pages = self._ec2.get_paginator("describe_launch_template_versions").paginate(LaunchTemplateName=self._name)
            return [row for page in pages for row in page["LaunchTemplateVersions"]]

        rows = found(read)
        return None if rows is None else {row.get("VersionDescription", ""): row["VersionNumber"] for row in rows}
