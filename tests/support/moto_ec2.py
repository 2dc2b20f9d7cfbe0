"""RunInstances from a launch template: what the template says and the request does not, holds, as on AWS.

moto takes the type, the machine image, disks, groups and user data over, and forgets the rest (IMDSv2, role, shutdown).
"""

from moto.ec2.responses.instances import InstanceResponse

plain_run = InstanceResponse.run_instances


def install() -> None:
    InstanceResponse.run_instances = run_instances


def run_instances(self):
    if named := self._get_param("LaunchTemplate"):
        data = self.ec2_backend._get_template_from_args(named).data
        template = {name: value for name, value in data.items() if value is not None and name != "TagSpecifications"}
        self.params = template | self.params
    return plain_run(self)
