"""`train --on ec2`: the image SageMaker would run, on plain instances that end themselves.

No SSH, no key, no open port: the instances get their orders as user data, work through the bucket and report to it.
`s3://BUCKET/ec2/RUN/` holds rendezvous/, status/HOST.json (written last) and output/HOST/; an object `stop` there asks the
run to checkpoint and end.
"""

import argparse
import json
from typing import Any

from botocore.exceptions import ClientError

from containers.core.settings import parse
from deploy.config import StageConfig
from deploy.context import Context
from deploy.ec2_network import Instances, SecurityGroup, vpc_and_subnets
from deploy.ec2_request import model_uri, run_instances, run_uri
from deploy.engine import Engine, found
from deploy.errors import DeployError, Refused, code_of, explained
from deploy.logs import Tail
from deploy.stage_tables import Ec2
from deploy.storage import EC2
from deploy.training_progress import decision_of, follow
from deploy.training_request import Run

_APPEAR_SECONDS = 120.0  # EC2 lists a new instance with some delay; one that is not listed by then is gone
_NO_ROOM = ("InsufficientInstanceCapacity", "Unsupported", "SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded")


def run(args: argparse.Namespace, context: Context, this: Run) -> None:
    """Raises Refused before anything starts, DeployError with the nodes' own reasons when training fails."""
    config = adjusted(context.config, args)
    image_id, root_device = machine_image(context)
    group = SecurityGroup(context)

    def request(group_id: str) -> dict[str, Any]:
        where = {"image_id": image_id, "root_device": root_device, "group_id": group_id}
        return run_instances(config, context.names, this, context.tags, **where)

    if context.dry_run:
        planned = request(group.group_id if group.exists() else group.key)
        context.emit(planned, lambda: planned)
        return
    list(Engine([group]).apply())
    instances = launch(context, request(group.group_id), this.name)
    many = f"{config.ec2.instance_count} × {config.ec2.instance_type}"
    context.say(f"started {this.name}: {many}, machine image {image_id}, {', '.join(instances)}")
    if args.detach:
        context.emit({"run": this.name, "instances": instances}, lambda: this.name)
        return
    job = Ec2Job(context, this.name, config.ec2.instance_count)
    follow(context, job, decision_of(args.on_interrupt, context))
    conclude(context, this, job)


def adjusted(config: StageConfig, args: argparse.Namespace) -> StageConfig:
    """The stage with this run's machines. Raises ConfigError."""
    kind = args.instance_type and args.instance_type.removeprefix("ml.")
    flags = {"instance_count": args.instances, "instance_type": kind, "spot": args.spot}
    changed = {name: value for name, value in flags.items() if value is not None}
    return config.model_copy(update={"ec2": parse(Ec2, config.ec2.model_dump() | changed, where="flags")})


def machine_image(context: Context) -> tuple[str, str]:
    """(id, root device) of the image that the SSM parameter names now; the run's record has the id, never `latest`."""
    parameter = context.config.ec2.ami_parameter
    with explained(f"SSM parameter {parameter}"):
        image_id = str(context.client("ssm").get_parameter(Name=parameter)["Parameter"]["Value"])
        images = context.client("ec2").describe_images(ImageIds=[image_id])["Images"]
    if not images:
        raise Refused(f"machine image {image_id}", "is not there", hint="set [ec2] ami_parameter to another parameter")
    return image_id, str(images[0].get("RootDeviceName") or "/dev/xvda")


def launch(context: Context, request: dict[str, Any], run: str) -> list[str]:
    """Instance ids. AWS checks the request (DryRun) first; where a zone has no such machine free, the next one is tried."""
    ec2 = context.client("ec2")
    _, subnets = vpc_and_subnets(context)
    with explained(f"run {run}"):
        _rehearse(ec2, request | {"SubnetId": subnets[0]})
        for number, subnet in enumerate(subnets):
            once = {"SubnetId": subnet, "ClientToken": f"{run}-{number}"}  # a repeated call is the same call
            try:
                answer = ec2.run_instances(**request, **once)
            except ClientError as error:
                if code_of(error) not in _NO_ROOM or subnet == subnets[-1]:
                    raise
                context.say(f"{subnet}: {code_of(error)}, trying the next zone")
            else:
                return [str(row["InstanceId"]) for row in answer["Instances"]]
    raise Refused(f"run {run}", "there is no subnet to run in", hint="set [security] subnet_ids")


def _rehearse(ec2: Any, request: dict[str, Any]) -> None:
    try:
        ec2.run_instances(**request, DryRun=True)
    except ClientError as error:
        if code_of(error) != "DryRunOperation":  # how EC2 says that it would have worked
            raise


class Ec2Job:
    """One run as `follow` watches it: by the status its nodes write, and by whether they live."""

    def __init__(self, context: Context, name: str, nodes: int) -> None:
        self.name, self.ended = name, False
        self.statuses: dict[str, dict[str, Any]] = {}
        self.hosts = [f"algo-{number}" for number in range(1, nodes + 1)]
        self._context, self._born = context, context.clock.monotonic()
        self._seen_alive = False
        self._s3, self._instances = context.client("s3"), Instances(context)

    def tail(self) -> Tail:
        return Tail(self._context, self._context.names.ec2_log_group, f"{self.name}/")

    def poll(self) -> str:
        with explained(f"run {self.name}"):
            alive = self._instances.alive(self.name)
            for host in self.hosts:
                if host not in self.statuses and (text := self._read(f"status/{host}.json")):
                    self.statuses[host] = json.loads(text)
        self._seen_alive = self._seen_alive or bool(alive)
        known = self._seen_alive or self._context.clock.monotonic() - self._born > _APPEAR_SECONDS
        self.ended = len(self.statuses) == len(self.hosts) or (known and not alive)
        return f"{len(alive)} of {len(self.hosts)} instances alive, {len(self.statuses)} finished"

    def stop(self) -> None:
        with explained(f"run {self.name}"):
            self._s3.put_object(Bucket=self._context.names.bucket, Key=f"{EC2}/{self.name}/stop", Body=b"")

    def failure(self, host: str) -> str:
        """The root cause in the container's own words, or the end of the instance's log."""
        with explained(f"run {self.name}"):
            own = self._read(f"output/{host}/failure")
            log = "" if own else self._read(f"output/{host}/instance.log")
        lines = [line for line in log.splitlines() if line.strip() and " ended with exit code " not in line]
        return own.strip() or (lines or ["it left no log"])[-1]

    def _read(self, key: str) -> str:
        answer = found(self._s3.get_object, Bucket=self._context.names.bucket, Key=f"{EC2}/{self.name}/{key}")
        return answer["Body"].read().decode(errors="replace") if answer else ""


def conclude(context: Context, this: Run, job: Ec2Job) -> None:
    """Raises DeployError where a node failed, or ended without a word."""
    again = f"python -m deploy train --on ec2 --stage {context.config.name} --data {this.dataset} --resume {this.checkpoints}"
    if not job.ended:
        context.say(f"{this.name} goes on without us; its results will be below {run_uri(context.names, this.name)}")
        return
    silent = [host for host in job.hosts if host not in job.statuses]
    if silent:
        hint = f"a spot machine may have been taken within its notice; go on: {again}"
        raise DeployError(this.name, f"{', '.join(silent)} ended without a status", hint=hint)
    interrupted = {host: status["interrupted"] for host, status in job.statuses.items() if status["interrupted"]}
    if interrupted:
        context.say(f"{this.name} was interrupted ({', '.join(sorted(set(interrupted.values())))})\n  go on: {again}")
    failed = [host for host, status in sorted(job.statuses.items()) if status["exit_code"] and host not in interrupted]
    if failed and not interrupted:
        reasons = "; ".join(f"{host} (exit code {job.statuses[host]['exit_code']}): {job.failure(host)}" for host in failed)
        where = run_uri(context.names, this.name, "output")
        raise DeployError(
            this.name, reasons, hint=f"python -m deploy logs ec2 {this.name}; files: {where}; once mended: {again}"
        )
    status = "Stopped" if interrupted else "Completed"
    summary = {"run": this.name, "status": status, "model": None if interrupted else model_uri(context.names, this.name)}
    context.emit(summary, lambda: "\n".join(f"{key:>7}: {value}" for key, value in summary.items() if value))
