"""`train`: one training job on SageMaker, on EC2 (`--on ec2`), or on this machine's Docker through SageMaker's local mode.

What is sent is built by `training_request`, so `--dry-run` prints exactly what would go out.
"""

import argparse
import secrets
from collections import Counter
from typing import Any

from containers.core.errors import ConfigError
from containers.core.settings import parse
from containers.train.config import TrainConfig
from deploy import costs, job_costs, quotas, registry
from deploy.config import StageConfig
from deploy.context import Context
from deploy.data import channels_in
from deploy.errors import DeployError, explained
from deploy.job_costs import JobPrice
from deploy.logs import TRAINING_GROUP, Tail
from deploy.names import content_id
from deploy.price_file import Prices
from deploy.storage import CHECKPOINTS, TRAINING
from deploy.training_progress import decision_of, follow
from deploy.training_request import Run, check_hosts, go_on, training_job
from deploy.training_tables import Training

_LIMITS = {"MaxRuntimeExceeded": "max_runtime_seconds", "MaxWaitTimeExceeded": "max_wait_seconds"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--on", choices=["sagemaker", "ec2", "local"], default="sagemaker", help="where (sagemaker)")
    parser.add_argument("--local", dest="on", action="store_const", const="local", help="the same as --on local")
    parser.add_argument("--resume", metavar="RUN", help="go on from this earlier run's checkpoints")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What `train` and `tune` have in common."""
    parser.add_argument("--data", required=True, metavar="NAME", help="dataset in the bucket; a folder with --on local")
    parser.add_argument("--image", help="registry/repository@sha256:… (the newest that `images` pushed)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter of this run")
    parser.add_argument("--instances", type=int, help="how many machines, instead of the stage's")
    parser.add_argument("--instance-type", help="instead of the stage's")
    parser.add_argument("--spot", action=argparse.BooleanOptionalAction, help="instead of the stage's")
    parser.add_argument("--detach", action="store_true", help="do not wait for the end")
    costs.add_ceiling_arguments(parser)
    parser.add_argument("--on-interrupt", choices=["ask", "stop", "leave"], default="ask", help="what Ctrl-C does (ask)")


def run(args: argparse.Namespace, context: Context) -> None:
    """Raises ConfigError for settings that cannot be used, Refused for a price above the stage's ceiling, DeployError with the
    job's own reason when it fails.
    """
    if args.on == "local":
        from deploy import training_local

        training_local.run(args, context, tuned(context.config.hyperparameters, args.set))
        return
    this = describe(args, context, args.resume)
    if args.on == "ec2":
        from deploy import ec2

        ec2.run(args, context, this)
        return
    _on_sagemaker(args, context, this)


def _on_sagemaker(args: argparse.Namespace, context: Context, this: Run) -> None:
    config = adjusted(context.config, args)
    check_hosts(this.hyperparameters, config.training.hosts)
    price = job_costs.of_training(config, Prices.read(args.prices))
    cost = job_costs.as_dict(args, config, price)
    request = training_job(config, context.names, this, context.tags)
    if context.dry_run:
        planned = {"create_training_job": request, "cost": cost}
        context.emit(planned, lambda: planned)
        return
    job_costs.hold(args, context, price)
    check_quotas(context, this.name, config.training)
    with explained(f"training job {this.name}"):
        context.client("sagemaker").create_training_job(**request)
    context.say(f"started {this.name}: {config.training.said}")
    if args.detach:
        context.emit({"job": this.name, "cost": cost}, lambda: this.name)
        return
    job = SageMakerJob(context, this.name)
    progress = follow(context, job, decision_of(args.on_interrupt, context))
    conclude(context, this, job.seen, progress.result, price)


class SageMakerJob:
    """One training job as `follow` watches it; `seen` is DescribeTrainingJob's last answer."""

    def __init__(self, context: Context, name: str) -> None:
        self.name, self.ended = name, False
        self.seen: dict[str, Any] = {"TrainingJobStatus": "InProgress"}
        self._context, self._sagemaker = context, context.client("sagemaker")

    def tail(self) -> Tail:
        return Tail(self._context, TRAINING_GROUP, f"{self.name}/")

    @property
    def look(self) -> str:
        return f"python -m deploy logs --follow --stage {self._context.config.name} {self.name}"

    def poll(self) -> str:
        with explained(f"training job {self.name}"):
            self.seen = self._sagemaker.describe_training_job(TrainingJobName=self.name)
        self.ended = self.seen["TrainingJobStatus"] in ("Completed", "Failed", "Stopped")
        return f"{self.seen['TrainingJobStatus']}, {self.seen.get('SecondaryStatus', '')}".rstrip(", ")

    def stop(self) -> None:
        with explained(f"training job {self.name}"):
            self._sagemaker.stop_training_job(TrainingJobName=self.name)


def describe(args: argparse.Namespace, context: Context, resume: str | None = None) -> Run:
    """This run, by flags and what the cloud has: newest image, the dataset's channels. A dry run asks for them too."""
    image = args.image or registry.newest(context, "train")
    registry.parse(image)
    moment = context.clock.now().strftime("%Y%m%d-%H%M%S")
    name = f"{context.names.base}-{moment}-{secrets.token_hex(2)}"
    return Run(
        name=name,
        image=image,
        dataset=args.data,
        channels=tuple(channels_in(context, args.data)),
        hyperparameters=tuned(context.config.hyperparameters, args.set),
        checkpoints=resume or name,
    )


def adjusted(config: StageConfig, args: argparse.Namespace) -> StageConfig:
    """The stage with this run's machines: flags that name both, type and number, also take the place of its instance_groups.

    Raises ConfigError.
    """
    flags = {"instance_count": args.instances, "instance_type": args.instance_type, "spot": args.spot}
    changed = {name: value for name, value in flags.items() if value is not None}
    given = config.training.model_dump(exclude_unset=True)
    if config.training.instance_groups and len({"instance_count", "instance_type"} & set(changed)) == 1:
        raise ConfigError(
            "the stage's instance_groups: --instances and --instance-type take their place together, neither alone"
        )
    if "instance_type" in changed:
        given.pop("instance_groups", None)
    training = parse(Training, given | changed, where="flags")
    return config.model_copy(update={"training": training})


def check_quotas(context: Context, where: str, training: Training, jobs: int = 1) -> None:
    """`jobs` of them at once. Raises Refused."""
    use: quotas.Use = "spot training job" if training.spot else "training job"
    machines: Counter[str] = Counter()
    for group in training.machines:
        machines[group.instance_type] += group.instance_count * jobs
    for kind, count in machines.items():
        quotas.require_instances(context, where, kind, use, count)
        if training.keep_alive_seconds:
            quotas.require_instances(context, where, kind, "training warm pool", count)


def tuned(config: TrainConfig, assignments: list[str]) -> TrainConfig:
    """`config` with each NAME=VALUE. Raises ConfigError naming all that cannot be used."""
    pairs = [assignment.partition("=") for assignment in assignments]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise ConfigError(f"--set {', '.join(bad)}: NAME=VALUE is expected")
    return parse(TrainConfig, config.model_dump(mode="json") | {name: value for name, _, value in pairs}, where="--set")


def conclude(context: Context, this: Run, job: dict[str, Any], result: dict[str, Any], price: JobPrice) -> None:
    status = job["TrainingJobStatus"]
    again = go_on(context.config, this)
    if status == "Failed":
        reason = job.get("FailureReason") or "SageMaker gave no reason"
        raise DeployError(this.name, reason, hint=f"python -m deploy logs {this.name}; once mended: {again}")
    if setting := _LIMITS.get(job.get("SecondaryStatus", "")):
        problem = f"SageMaker stopped it: [training] {setting} was over before it had finished"
        raise DeployError(this.name, problem, hint=f"raise {setting}, then go on from its checkpoint: {again}")
    if status != "Completed":
        what = "goes on without us" if status in ("InProgress", "Stopping") else f"ended as {status}"
        context.say(f"{this.name} {what}; its checkpoint: {context.names.uri(CHECKPOINTS, this.checkpoints)}\n  go on: {again}")
    model = job.get("ModelArtifacts", {}).get("S3ModelArtifacts") or context.names.uri(
        TRAINING, this.name, "output/model.tar.gz"
    )
    summary = {
        "job": this.name,
        "status": status,
        "reason": job.get("SecondaryStatus", ""),
        "model": model if status == "Completed" else None,
        "training_seconds": job.get("TrainingTimeInSeconds"),
        "billable_seconds": job.get("BillableTimeInSeconds"),
        "dollars": job_costs.billed(price, job.get("BillableTimeInSeconds")),
        "metrics": {row["MetricName"]: row["Value"] for row in job.get("FinalMetricDataList", [])} or _numbers(result),
        "settings": content_id(this.hyperparameters.model_dump(mode="json")),
    }
    context.emit(summary, lambda: "\n".join(f"{key:>17}: {value}" for key, value in summary.items() if value is not None))


def _numbers(fields: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in fields.items() if isinstance(value, int | float)}
