"""`transform`: a folder of photos through the live model as a SageMaker batch transform job; the answers land in the bucket.

The same command again, while the job still runs, watches it: a second one would cost as much and say the same.
"""

import argparse
import math
import mimetypes
import re
from pathlib import Path
from typing import Any

from containers.core.errors import ConfigError
from deploy import costs, data, job_costs, jobs, quotas, releases
from deploy.context import Context
from deploy.engine import found
from deploy.errors import DeployError, Refused, explained
from deploy.instance_types import has_gpu, has_own_disk
from deploy.price_file import Prices
from deploy.storage import TRANSFORM, tag_list

_AMI_OF_CUDA_12 = "al2-ami-sagemaker-batch-gpu-535"  # the newest there is: driver 535, so CUDA 13 has none
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_LARGEST_MB = 100  # CreateTransformJob, MaxPayloadInMB
_LIMIT_SECONDS = 24 * 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="photos, in any tree; all of one format")
    parser.add_argument("--name", help="of the input in the bucket (the folder's name)")
    parser.add_argument("--instances", type=int, default=1, help="machines that share the photos (1)")
    parser.add_argument("--instance-type", help="instead of the endpoint's")
    parser.add_argument("--detach", action="store_true", help="do not wait for the end")
    costs.add_ceiling_arguments(parser)


def run(args: argparse.Namespace, context: Context) -> None:
    """Raises ConfigError where the folder cannot be sent as one job, Refused for a price above the stage's ceiling or photos
    that a running job still reads otherwise, DeployError where the job fails.
    """
    files = photos(args.folder)
    prefix = f"{TRANSFORM}/in/{args.name or args.folder.resolve().name}"
    job = f"{context.names.base}-{context.clock.now():%Y%m%d-%H%M%S}"
    request = transform_job(args, context, job, prefix, files)
    machines = request["TransformResources"]
    price = job_costs.of_transform(machines["InstanceType"], machines["InstanceCount"], Prices.read(args.prices))
    cost = job_costs.as_dict(args, context.config, price)
    going = _going_on(context, request, files, prefix)
    if context.dry_run:
        would = f"would watch {going}, which still runs" if going else f"would send {len(files)} photos as {job}"
        planned = {"create_transform_job": None if going else request, "watch": going, "cost": cost}
        context.emit(planned, lambda: f"{would}\n{job_costs.said(price, context.config, Prices.read(args.prices))}")
        return
    if going:
        context.say(f"{going} still sends these photos: nothing is started")
    else:
        job_costs.hold(args, context, price)
        _start(context, request, files, prefix)
    job = going or job
    if not args.detach:
        _wait(context, job)
    output = context.names.uri(TRANSFORM, "out", job)
    answered = f"{len(files)} answers in {output}"
    context.emit({"job": job, "photos": len(files), "output": output, "cost": cost}, lambda: answered)


def _start(context: Context, request: dict[str, Any], files: dict[str, Path], prefix: str) -> None:
    job, machines = request["TransformJobName"], request["TransformResources"]
    quotas.require_instances(context, job, machines["InstanceType"], "transform job", machines["InstanceCount"])
    with explained(f"upload to {context.names.uri(prefix)}"):
        data.upload(context, files, prefix, delete=True, ignored=0)
    with explained(f"transform job {job}"):
        context.client("sagemaker").create_transform_job(**request)


def _going_on(context: Context, request: dict[str, Any], files: dict[str, Path], prefix: str) -> str:
    """The newest job that still runs and does what `request` would; empty where none does.

    Raises Refused where one still reads these photos' place in the bucket, and there would be others now.
    """
    with explained("transform jobs"):
        reading = [seen for seen in _running(context) if _has(seen, {"TransformInput": _source_of(request)})]
        if not reading:
            return ""
        compared = data.upload(context, files, prefix, delete=True, ignored=0, write=False)
    if compared.uploaded or compared.extra:
        name = reading[0]["TransformJobName"]
        problem = f"{name} still reads {compared.uri}, where other photos would come"
        hint = f"wait for its end, give these another --name, or `aws sagemaker stop-transform-job --transform-job-name {name}`"
        raise Refused("transform", problem, hint=hint)
    wanted = {key: request[key] for key in ("ModelName", "TransformInput", "TransformResources")}
    return next((str(seen["TransformJobName"]) for seen in reading if _has(seen, wanted)), "")


def _running(context: Context) -> list[dict[str, Any]]:
    """As DescribeTransformJob tells of each, the newest first."""
    names = sorted(jobs.RunningJobs(context).named("TransformJob", "InProgress"), reverse=True)  # a name is base and time
    return [context.client("sagemaker").describe_transform_job(TransformJobName=name) for name in names]


def _source_of(request: dict[str, Any]) -> dict[str, Any]:
    return {"DataSource": request["TransformInput"]["DataSource"]}


def _has(seen: Any, wanted: Any) -> bool:
    """Whether `seen` says all that `wanted` does; AWS adds the defaults of what was not sent."""
    if isinstance(wanted, dict):
        return isinstance(seen, dict) and all(key in seen and _has(seen[key], value) for key, value in wanted.items())
    return bool(seen == wanted)


def photos(folder: Path) -> dict[str, Path]:
    """Key below the input's prefix → file."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder")
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES]
    named = {data.key_of(path, folder): path for path in paths}
    files = {key: path for key, path in named.items() if not any(part.startswith(".") for part in key.split("/"))}
    if not files:
        raise ConfigError(f"{folder} holds no photos ({', '.join(_SUFFIXES)})")
    return files


def transform_job(args: argparse.Namespace, context: Context, job: str, prefix: str, files: dict[str, Path]) -> dict[str, Any]:
    """CreateTransformJob's arguments for the live model. Raises Refused where that is many models, ConfigError for photos
    that no transform takes."""
    if context.config.endpoint.kind == "multi-model":
        raise Refused("transform", "SageMaker has no batch transform of a multi-model endpoint", hint="use another stage")
    names = context.names
    with explained("the live release"):
        config = releases.live_config(context)
        release = config and releases.of_config(context, config)
        described = config and found(context.client("sagemaker").describe_endpoint_config, EndpointConfigName=config)
    if not described or not release:
        raise DeployError("transform", "there is no release yet", hint="`python -m deploy release`")
    kind = args.instance_type or context.config.endpoint.instance_type
    resources: dict[str, Any] = {"InstanceType": kind, "InstanceCount": args.instances}
    if has_gpu(kind):
        if not re.match(r"12\.", release.cuda):
            hint = "give a CPU type with --instance-type"
            raise DeployError("transform", f"batch transform has no GPU driver for CUDA {release.cuda}", hint=hint)
        resources["TransformAmiVersion"] = _AMI_OF_CUDA_12
    key = context.config.security.kms_key_arn  # SageMaker would take the account's own for S3, whatever the bucket's default is
    if key and not has_own_disk(kind):
        resources["VolumeKmsKeyId"] = key
    output = {"S3OutputPath": names.uri(TRANSFORM, "out", job), "Accept": "application/json"}
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{names.bucket}/{prefix}/"}
    return {
        "TransformJobName": job,
        "ModelName": described["ProductionVariants"][0]["ModelName"],
        "BatchStrategy": "SingleRecord",
        "MaxPayloadInMB": _payload_mb(files),
        "TransformInput": {"DataSource": {"S3DataSource": source}, "ContentType": _media_type(files), "SplitType": "None"},
        "TransformOutput": output | ({"KmsKeyId": key} if key else {}),
        "TransformResources": resources,
        "Tags": tag_list(context.tags),
    }


def _payload_mb(files: dict[str, Path]) -> int:
    """Enough for the largest photo: SageMaker's default of 6 would fail the job at a larger one.

    A megabyte is the smaller kind, so that it is enough whichever is meant. Raises ConfigError.
    """
    size, name = max((path.stat().st_size, name) for name, path in files.items())
    if size > _LARGEST_MB * 1_000_000:
        raise ConfigError(f"{name} has {size / 1e6:.0f} MB, a batch transform takes at most {_LARGEST_MB}: leave it out")
    return max(1, math.ceil(size / 1_000_000))


def _media_type(files: dict[str, Path]) -> str:
    """SageMaker sends one content type with every photo."""
    kinds = {mimetypes.guess_type(path.name)[0] or "application/octet-stream" for path in files.values()}
    return kinds.pop() if len(kinds) == 1 else "application/octet-stream"  # the server then looks at the bytes


def _wait(context: Context, job: str) -> None:
    sagemaker = context.client("sagemaker")

    def status() -> str:
        with explained(f"transform job {job}"):
            return str(sagemaker.describe_transform_job(TransformJobName=job)["TransformJobStatus"])

    what = f"transform job {job}"
    ended = context.wait(what, status, until={"Completed", "Failed", "Stopped"}, limit_seconds=_LIMIT_SECONDS, every_seconds=30)
    if ended != "Completed":
        reason = sagemaker.describe_transform_job(TransformJobName=job).get("FailureReason", "no reason given")
        raise DeployError(what, f"ended as {ended}: {reason}", hint=f"python -m deploy logs transform {job}")
