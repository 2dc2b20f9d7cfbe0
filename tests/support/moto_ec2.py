"""RunInstances from a launch template: what the template says and the request does not, holds, as on AWS; and machine images
with disks of different sizes, which want a disk at least as large.

moto takes the type, the machine image, disks, groups and user data over, and forgets the rest (IMDSv2, role, shutdown).
"""

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami
from moto.ec2.responses.instances import InstanceResponse

DISKS: dict[str, int] = {}
"""Machine image → GB of its disk; moto's all have 15."""

plain_run = InstanceResponse.run_instances
plain_disks = Ami.block_device_mappings.fget


def install() -> None:
    InstanceResponse.run_instances = run_instances
    Ami.block_device_mappings = property(disks)


def disks(self):
    (root,) = plain_disks(self)
    return [root | {"Ebs": root["Ebs"] | {"VolumeSize": DISKS.get(self.id, 15)}}]


def run_instances(self):
    if named := self._get_param("LaunchTemplate"):
        data = self.ec2_backend._get_template_from_args(named).data
        template = {name: value for name, value in data.items() if value is not None and name != "TagSpecifications"}
        self.params = template | self.params
    (image,) = self.ec2_backend.describe_images(ami_ids=[self.params["ImageId"]])
    least = image.block_device_mappings[0]["Ebs"]["VolumeSize"]
    for mapping in self.params.get("BlockDeviceMappings", []):
        if (size := mapping["Ebs"]["VolumeSize"]) < least:
            message = f"Volume of size {size}GB is smaller than snapshot 'snap-1', expect size >= {least}GB"
            raise EC2ClientError("InvalidBlockDeviceMapping", message)
    return plain_run(self)
