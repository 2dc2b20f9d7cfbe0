"""`tune`: SageMaker searches hyperparameters of our training image, judged by our own metrics.

    python -m deploy tune --data dogs --range learning_rate=1e-4:1e-2:log --choice optimizer=adamw,sgd

Trials keep no checkpoints in the bucket: we have not verified that SageMaker keeps those of different trials apart, and a trial
that resumed another's would spoil the search. On spot machines an interrupted trial therefore starts again.
"""

import argparse
from typing import Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from containers.core.errors import ConfigError
from containers.core.metrics import METRICS, Metric
from containers.train.config import TrainConfig
from deploy import job_costs, training
from deploy.context import Context
from deploy.errors import DeployError, Refused, explained
from deploy.price_file import Prices
from deploy.training_progress import decision_of, goes_on
from deploy.training_request import Request, check_hosts, training_job

_NAME_LIMIT = 32  # of a tuning job (API reference); its trials' names are made from it
_DEFINITION = (
    "AlgorithmSpecification", "RoleArn", "InputDataConfig", "VpcConfig", "OutputDataConfig", "ResourceConfig",
    "StoppingCondition", "EnableManagedSpotTraining", "EnableInterContainerTrafficEncryption", "RetryStrategy", "Environment",
)  # fmt: skip
_LIMIT_SECONDS = 30 * 86_400  # SageMaker ends every tuning job by then
_ENDED = {"Completed", "Failed", "Stopped"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_run_arguments(parser)
    parser.add_argument("--range", action="append", default=[], metavar="NAME=LOW:HIGH[:log]", help="a number to search")
    parser.add_argument("--choice", action="append", default=[], metavar="NAME=A,B", help="values to choose from")
    goals = [metric.name for metric in METRICS if metric.goal]
    parser.add_argument(
        "--metric", choices=goals, default="validation:best_loss", help="what is improved (validation:best_loss)"
    )
    parser.add_argument("--trials", type=int, default=20, help="in all (20)")
    parser.add_argument("--parallel", type=int, default=2, help="at once; fewer at once learn more from each other (2)")


def run(args: argparse.Namespace, context: Context) -> None:
    """Raises ConfigError for a search that cannot be, Refused for a price above the stage's ceiling, DeployError where it
    fails.
    """
    name = f"{context.names.base}-{context.clock.now():%y%m%d%H%M%S}"
    if len(name) > _NAME_LIMIT:
        raise Refused("tune", f"{name} is longer than {_NAME_LIMIT} characters", hint="shorten [stage] project")
    ranges = search_space(args.range, args.choice)
    metric = next(metric for metric in METRICS if metric.name == args.metric)
    config = training.adjusted(context.config, args)
    trial = training.describe(args, context)
    check_hosts(trial.hyperparameters, config.training.hosts)
    job = training_job(config, context.names, trial, context.tags)
    request = tuning_job(name, job, ranges, metric, trials=args.trials, parallel=args.parallel)
    price = job_costs.of_training(config, Prices.read(args.prices), trials=args.trials)
    cost = job_costs.as_dict(args, config, price)
    if context.dry_run:
        planned = {"create_hyper_parameter_tuning_job": request, "cost": cost}
        context.emit(planned, lambda: planned)
        return
    job_costs.hold(args, context, price)
    training.check_quotas(context, name, config.training, min(args.parallel, args.trials))
    with explained(f"tuning job {name}"):
        context.client("sagemaker").create_hyper_parameter_tuning_job(**request)
    context.say(f"started {name}: {args.trials} trials, {args.parallel} at once")
    if args.detach:
        context.emit({"job": name, "cost": cost}, lambda: name)
        return
    conclude(context, name, watch(context, name, args.on_interrupt), args.metric)


def search_space(ranges: list[str], choices: list[str]) -> dict[str, list[dict[str, Any]]]:
    """`ParameterRanges`. Raises ConfigError for names and values that TrainConfig does not have."""
    found: dict[str, list[dict[str, Any]]] = {"Continuous": [], "Integer": [], "Categorical": []}
    for text in ranges:
        name, low, high, scale = _range(text)
        kind = "Integer" if _kind(name) is int else "Continuous"
        found[kind].append({"Name": name, "MinValue": low, "MaxValue": high, "ScalingType": scale})
    for text in choices:
        name, _, listed = text.partition("=")
        values = [value for value in listed.split(",") if value]
        if len(values) < 2:
            raise ConfigError(f"--choice {text}: NAME=A,B with two values or more is expected")
        for value in values:
            _check(name, value, text)
        found["Categorical"].append({"Name": name, "Values": values})
    names = [row["Name"] for rows in found.values() for row in rows]
    if not names or len(set(names)) < len(names):
        raise ConfigError("name each hyperparameter to search once, with --range or --choice")
    return {f"{kind}ParameterRanges": rows for kind, rows in found.items() if rows}


def tuning_job(
    name: str, job: Request, ranges: dict[str, list[dict[str, Any]]], metric: Metric, *, trials: int, parallel: int
) -> Request:
    """CreateHyperParameterTuningJob, out of the request of one training job."""
    searched = {row["Name"] for rows in ranges.values() for row in rows}
    static = {key: value for key, value in job["HyperParameters"].items() if key not in searched}
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": metric.goal, "MetricName": metric.name},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": trials, "MaxParallelTrainingJobs": min(trials, parallel)},
            "ParameterRanges": ranges,
            "TrainingJobEarlyStoppingType": "Auto",
        },
        "TrainingJobDefinition": {"StaticHyperParameters": static} | {key: job[key] for key in _DEFINITION if key in job},
        "Tags": job["Tags"],
    }


def watch(context: Context, name: str, on_interrupt: str) -> dict[str, Any]:
    """The tuning job's last description: of its end, or of the moment in which Ctrl-C left it."""
    sagemaker, seen = context.client("sagemaker"), {"HyperParameterTuningJobStatus": "InProgress"}

    def poll() -> str:
        with explained(f"tuning job {name}"):
            seen.update(sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name))
        return str(seen["HyperParameterTuningJobStatus"])

    while True:
        try:
            context.wait(f"tuning job {name}", poll, until=_ENDED, limit_seconds=_LIMIT_SECONDS, every_seconds=30)
            return seen
        except DeployError as error:
            raise goes_on(error, name, f"python -m deploy status --stage {context.config.name}") from error
        except KeyboardInterrupt:
            decision = decision_of(on_interrupt, context)()
            if decision == "leave":
                return seen
            if decision == "stop":
                with explained(f"tuning job {name}"):
                    sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def conclude(context: Context, name: str, seen: dict[str, Any], metric: str) -> None:
    """Raises DeployError when the search failed."""
    status, best = seen["HyperParameterTuningJobStatus"], seen.get("BestTrainingJob", {})
    if status == "Failed":
        raise DeployError(name, seen.get("FailureReason") or "SageMaker gave no reason", hint="`logs` of one of its trials")
    summary = {
        "job": name,
        "status": status,
        "best_trial": best.get("TrainingJobName"),
        metric: best.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value"),
        "hyperparameters": best.get("TunedHyperParameters"),
    }
    context.emit(summary, lambda: "\n".join(f"{key:>22}: {value}" for key, value in summary.items() if value is not None))


def _range(text: str) -> tuple[str, str, str, str]:
    name, _, bounds = text.partition("=")
    parts = bounds.split(":")
    if len(parts) not in (2, 3) or parts[2:] not in ([], ["log"]):
        raise ConfigError(f"--range {text}: NAME=LOW:HIGH or NAME=LOW:HIGH:log is expected")
    for bound in parts[:2]:
        _check(name, bound, text)
    if not float(parts[0]) < float(parts[1]) or (parts[2:] and float(parts[0]) <= 0):
        raise ConfigError(f"--range {text}: LOW must be below HIGH, and above 0 with log")
    return name, parts[0], parts[1], "Logarithmic" if parts[2:] else "Auto"


def _kind(name: str) -> Any:
    return TrainConfig.model_fields[name].annotation


def _check(name: str, value: str, text: str) -> None:
    """Raises ConfigError unless `value` is one that this hyperparameter can have."""
    if name not in TrainConfig.model_fields:
        raise ConfigError(f"{text}: there is no hyperparameter {name!r}")
    field = TrainConfig.model_fields[name]
    kind: Any = field.annotation
    try:
        TypeAdapter(kind).validate_python(value)
        TrainConfig.model_validate({name: value})
    except ValidationError as error:
        allowed = f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else error.errors()[0]["msg"]
        raise ConfigError(f"{text}: {value!r} cannot be {name}: {allowed}") from None
