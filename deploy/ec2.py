"""`train --on ec2`: the image SageMaker would run, on plain instances that end themselves.

No SSH, no key, no open port: the instances get their orders as user data, work through the bucket and report to it.
`s3://BUCKET/ec2/RUN/` holds rendezvous/, status/HOST.json (written last) and output/HOST/; an object `stop` there asks the
run to checkpoint and end.
"""

import argparse
import json
from typing import Any

from containers.core.errors import ConfigError
from containers.core.settings import parse
from deploy import ec2_launch, job_costs, quotas
from deploy.config import StageConfig
from deploy.context import Context
from deploy.ec2_network import Instances, SecurityGroup
from deploy.ec2_request import model_uri, run_instances, run_uri, training_machine
from deploy.engine import found
from deploy.errors import DeployError, explained
from deploy.logs import Tail
from deploy.price_file import Prices
from deploy.storage import EC2
from deploy.training_progress import decision_of, follow
from deploy.training_request import Run, check_hosts, go_on
from deploy.training_tables import Ec2

_SHORT_OF_MINUTES = 5  # a machine counts from its boot, we from a little later or, after a wait for its end, earlier
_BY_DESIGN = ("Client.InstanceInitiatedShutdown", "Client.UserInitiatedShutdown")
_APPEAR_SECONDS = 120.0  # EC2 lists a new instance with some delay; one that is not listed by then is gone


def run(args: argparse.Namespace, context: Context, this: Run) -> None:
    """Raises Refused before anything starts, DeployError with the nodes' own reasons when training fails."""
    config = adjusted(context.config, args)
    check_hosts(this.hyperparameters, config.ec2.instance_count)
    image_id, root_device = ec2_launch.machine_image(context, "ec2", config.ec2.volume_gb)

    def data(group_id: str) -> dict[str, Any]:
        where = {"image_id": image_id, "root_device": root_device, "group_id": group_id}
        return training_machine(config, context.names, **where)

    request = run_instances(config, context.names, this, context.tags)
    price, machines = job_costs.of_ec2(config, Prices.read(args.prices)), config.ec2
    cost = job_costs.as_dict(args, config, price)
    if not context.dry_run:
        job_costs.hold(args, context, price)
        quotas.require_vcpus(context, this.name, machines.instance_type, machines.instance_count, spot=machines.spot)
    instances = ec2_launch.start(context, this.name, SecurityGroup(context, "train"), data, request, {"cost": cost})
    if instances is None:
        return
    many = f"{config.ec2.instance_count} × {config.ec2.instance_type}"
    context.say(f"started {this.name}: {many}, machine image {image_id}, {', '.join(instances)}")
    if args.detach:
        context.emit({"run": this.name, "instances": instances, "cost": cost}, lambda: this.name)
        return
    job = Ec2Job(context, this.name, config.ec2.instance_count)
    follow(context, job, decision_of(args.on_interrupt, context))
    conclude(context, this, job, config.ec2)


def adjusted(config: StageConfig, args: argparse.Namespace) -> StageConfig:
    """The stage with this run's machines. Raises ConfigError, also where they would be ours and not the user's choice."""
    if config.training.instance_groups and args.instance_type is None and "instance_type" not in config.ec2.model_fields_set:
        raise ConfigError(
            "[training] instance_groups are for SageMaker, plain instances of one run are of one type: "
            "say which with [ec2] instance_type or --instance-type"
        )
    kind = args.instance_type and args.instance_type.removeprefix("ml.")
    flags = {"instance_count": args.instances, "instance_type": kind, "spot": args.spot}
    changed = {name: value for name, value in flags.items() if value is not None}
    return config.model_copy(update={"ec2": parse(Ec2, config.ec2.model_dump(exclude_unset=True) | changed, where="flags")})


class Ec2Job:
    """One run as `follow` watches it: by the status its nodes write, and by whether they live."""

    def __init__(self, context: Context, name: str, nodes: int) -> None:
        self.name, self.ended = name, False
        self.statuses: dict[str, dict[str, Any]] = {}
        self.hosts = [f"algo-{number}" for number in range(1, nodes + 1)]
        self._context, self._born = context, context.clock.monotonic()
        self._seen_alive = False
        self._s3, self._instances = context.client("s3"), Instances(context)

    @property
    def look(self) -> str:
        return f"python -m deploy logs --follow --stage {self._context.config.name} ec2 {self.name}"

    @property
    def minutes(self) -> float:
        """How long it has been watched."""
        return (self._context.clock.monotonic() - self._born) / 60

    def tail(self) -> Tail:
        return Tail(self._context, self._context.names.ec2_log_group, f"{self.name}/")

    def poll(self) -> str:
        with explained(f"run {self.name}"):
            alive = self._instances.alive(self.name)
            for host in self.hosts:
                if host not in self.statuses and (text := self._read(f"status/{host}.json")):
                    self.statuses[host] = _status(text, f"run {self.name}, {host}")
        self._seen_alive = self._seen_alive or bool(alive)
        known = self._seen_alive or self._context.clock.monotonic() - self._born > _APPEAR_SECONDS
        self.ended = len(self.statuses) == len(self.hosts) or (known and not alive)
        return f"{len(alive)} of {len(self.hosts)} instances alive, {len(self.statuses)} finished"

    def went_well(self, host: str) -> bool:
        """To its end, uninterrupted. The first one's then wrote the model: rank 0 is there."""
        status = self.statuses.get(host)
        return status is not None and not status["exit_code"] and not status["interrupted"]

    def stop(self) -> None:
        with explained(f"run {self.name}"):
            self._s3.put_object(**self._context.names.in_bucket, Key=f"{EC2}/{self.name}/stop", Body=b"")

    def failure(self, host: str) -> str:
        """The root cause in the container's own words, or the end of the instance's log."""
        with explained(f"run {self.name}"):
            own = self._read(f"output/{host}/failure")
            log = "" if own else self._read(f"output/{host}/instance.log")
        lines = [line for line in log.splitlines() if line.strip() and " ended with exit code " not in line]
        return own.strip() or (lines or ["it left no log"])[-1]

    def what_ec2_says(self) -> str:
        """Why instances of the run ended, where it was neither they themselves nor a person. EC2 tells it for about an hour."""
        with explained(f"run {self.name}"):
            rows = self._instances.ended(self.name)
        reasons = {str(row.get("StateReason", {}).get("Message", "")) for row in rows}
        return "; ".join(sorted(text for text in reasons if text and not text.startswith(_BY_DESIGN)))

    def _read(self, key: str) -> str:
        answer = found(self._s3.get_object, **self._context.names.in_bucket, Key=f"{EC2}/{self.name}/{key}")
        return answer["Body"].read().decode(errors="replace") if answer else ""


def _why_silent(job: Ec2Job, machines: Ec2) -> str:
    if told := job.what_ec2_says():
        return f"EC2 says: {told}"
    if job.minutes >= machines.max_minutes - _SHORT_OF_MINUTES:
        return f"[ec2] max_minutes ({machines.max_minutes}) has ended it: raise that"
    if machines.spot:
        return "a spot machine may have been taken within its notice"
    return f"somebody or a fault ended it; `{job.look}` shows what its container said"


def _status(text: str, where: str) -> dict[str, Any]:
    """Raises DeployError where no node wrote it."""
    try:
        told = dict(json.loads(text))
        return told | {"exit_code": int(told["exit_code"]), "interrupted": str(told["interrupted"])}
    except (ValueError, TypeError, KeyError):
        raise DeployError(
            where, f"its status is not a node's: {text[:200]!r}", hint="did somebody else write to the bucket?"
        ) from None


def conclude(context: Context, this: Run, job: Ec2Job, machines: Ec2) -> None:
    """Raises DeployError where a node failed, or ended without a word, and the others did not go on without it."""
    again = go_on(context.config, this, "--on", "ec2")
    if not job.ended:
        context.say(f"{this.name} goes on without us; its results will be below {run_uri(context.names, this.name)}")
        return
    whole = bool(this.hyperparameters.min_hosts) and job.went_well(job.hosts[0])
    lost = [host for host in job.hosts if not job.went_well(host)] if whole else []
    if lost:
        context.say(f"{this.name} went on to its end without {', '.join(lost)}, as min_hosts allows")
        for host in lost:
            if host in job.statuses and job.statuses[host]["exit_code"]:
                context.say(f"  {host}: {job.failure(host)}")
    interrupted = not whole and _interrupted(context, this, job, machines, again)
    status = "Stopped" if interrupted else "Completed"
    model = None if interrupted else model_uri(context.names, this.name)
    summary: dict[str, Any] = {"run": this.name, "status": status, "model": model, "lost": lost}
    shown = summary | {"lost": ", ".join(lost)}
    context.emit(summary, lambda: "\n".join(f"{key:>7}: {value}" for key, value in shown.items() if value))


def _interrupted(context: Context, this: Run, job: Ec2Job, machines: Ec2, again: str) -> bool:
    """Whether a run that needed all its nodes was; said. Raises DeployError as `conclude` does."""
    silent = [host for host in job.hosts if host not in job.statuses]
    if silent:
        why = _why_silent(job, machines)
        raise DeployError(this.name, f"{', '.join(silent)} ended without a status", hint=f"{why}; go on: {again}")
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
    return bool(interrupted)
