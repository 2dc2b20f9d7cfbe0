"""`release`: a trained artifact and a serving image become the endpoint, watched by alarms, checked with the golden photo."""

import argparse
from dataclasses import replace
from urllib.parse import quote

from deploy import costs, plan, registry, releases, smoke
from deploy.context import Context
from deploy.engine import found
from deploy.errors import DeployError, Refused, explained
from deploy.proof import Proof
from deploy.serving import EndpointConfig, Release
from deploy.storage import MODELS, TRAINING


def add_arguments(parser: argparse.ArgumentParser) -> None:
    costs.add_ceiling_arguments(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--job", help="a training job, or a run on EC2; its artifact is released")
    what.add_argument(
        "--model-data", help="s3://…/model.tar.gz, or the prefix of a multi-model endpoint (default: the live one)"
    )
    parser.add_argument("--on", choices=["sagemaker", "ec2"], default="sagemaker", help="where it serves (sagemaker)")
    parser.add_argument("--as", dest="model_name", metavar="NAME", help="multi-model: add the artifact under this name")
    parser.add_argument("--image", help="registry/repository@sha256:… (default: the live one, else the newest that was pushed)")
    parser.add_argument("--no-smoke", action="store_true", help="do not check the answer to the artifact's golden photo")


def run(args: argparse.Namespace, context: Context) -> None:
    _suits(args, context)
    if args.on == "ec2":
        from deploy import ec2_serving, ec2_standing

        ec2_serving.run(args, context, resolve(args, context, ec2_standing.live(context)))
        return
    release = resolve(args, context, releases.live(context))
    many = context.config.endpoint.kind == "multi-model"
    served = _among_many(args, context, release) if many else release

    def first() -> None:
        registry.keep(context, served.image)
        if served.model_data != release.model_data:
            _add_model(context, release.model_data, args.model_name)

    config = EndpointConfig(context, served).name
    proof = None
    if not (args.no_smoke or context.dry_run) and context.config.endpoint.kind in smoke.KINDS:
        proof = Proof(context, smoke.read_golden(context, served.model_data), config)
    done = plan.carry_out(args, context, served, first, proof)
    if context.dry_run:
        return
    document = plan.as_dict(done, served, context) | {"config": config, "smoke": proof.rows if proof else []}
    context.emit(document, lambda: f"released {config}: {served.model_data} on {served.image}")


def _suits(args: argparse.Namespace, context: Context) -> None:
    """Raises Refused for a flag that would do nothing where this release goes."""
    on_ec2, kind = args.on == "ec2", context.config.endpoint.kind
    if args.model_name and (on_ec2 or kind != "multi-model"):
        what = "an instance on EC2 serves one model" if on_ec2 else f"a {kind} endpoint serves one model"
        hint = 'leave --as out, or release to an endpoint with [endpoint] kind = "multi-model"'
        raise Refused("release", f"--as names one model among many, and {what}", hint=hint)
    if args.no_smoke and on_ec2:
        problem = (
            "--no-smoke cannot be had with --on ec2: the server itself checks the golden photo before it says it is healthy"
        )
        raise Refused("release", problem, hint="leave --no-smoke out")


def resolve(args: argparse.Namespace, context: Context, live: Release | None) -> Release:
    """The release that the flags and the live one make together. Raises DeployError before anything is changed."""
    model_data = _artifact_of(context, args.job) if args.job else args.model_data or (live and live.model_data)
    if not model_data:
        raise DeployError("release", "which artifact?", hint="--job NAME of a finished training job, or --model-data s3://…")
    _require(args, context, model_data)
    image = args.image or (live and live.image) or registry.newest(context, "serve")
    if live and image == live.image and live.cuda != "unknown":
        return Release(image=image, model_data=model_data, cuda=live.cuda)
    with explained(f"image {image}"):
        labels = registry.labels(context, image)
    if registry.CUDA_LABEL not in labels:
        hint = "build it with `python -m deploy images`"
        raise DeployError(f"image {image}", f"has no label {registry.CUDA_LABEL}: which driver does it need?", hint=hint)
    return Release(image=image, model_data=model_data, cuda=labels[registry.CUDA_LABEL])


def _artifact_of(context: Context, job: str) -> str:
    where = f"training job {job}"
    with explained(where):
        described = found(context.client("sagemaker").describe_training_job, TrainingJobName=job)
    if described is None:
        return _artifact_of_run(context, job)
    if described["TrainingJobStatus"] not in ("Completed", "Stopped"):  # a stopped job has written its best model
        reason = described.get("FailureReason", "it is not finished")
        hint = f"`python -m deploy logs {job}`; release it once it is Completed, or another: `status` names the latest"
        raise DeployError(where, f"is {described['TrainingJobStatus']}: {reason}", hint=hint)
    artifact = described.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if not artifact:
        raise DeployError(where, "was stopped before it left a model", hint="release another one: `status` names the latest")
    return str(artifact)


def _artifact_of_run(context: Context, run: str) -> str:
    """What `train --on ec2` left where SageMaker would have."""
    key = f"{TRAINING}/{run}/output/model.tar.gz"
    with explained(f"run {run}"):
        there = found(context.client("s3").head_object, **context.names.in_bucket, Key=key)
    if there is None:
        hint = "`python -m deploy status` names the latest training jobs"
        raise DeployError(f"training job {run}", "does not exist, and no run on EC2 of that name left a model", hint=hint)
    return context.names.uri(key)


def _require(args: argparse.Namespace, context: Context, model_data: str) -> None:
    """The artifact is there, where what serves may read it: SageMaker would find out after ten minutes that it is not."""
    own = [context.names.uri(prefix, "") for prefix in (TRAINING, MODELS)]
    many = context.config.endpoint.kind == "multi-model" and args.on != "ec2"
    copied = many and not model_data.endswith("/")
    if not (copied or model_data.startswith(tuple(own))):
        copy = f"--recursive {model_data} {own[1]}" if model_data.endswith("/") else f"{model_data} {own[1]}NAME.tar.gz"
        problem = f"the role of what serves reads models below {' and '.join(own)}, and nowhere else"
        raise Refused(model_data, problem, hint=f"`aws s3 cp {copy}`, and release that")
    bucket, _, key = model_data.removeprefix("s3://").partition("/")
    with explained(model_data):
        if key.endswith("/"):
            there = (
                context.client("s3").list_objects_v2(**context.names.in_any(bucket), Prefix=key, MaxKeys=1).get("KeyCount", 0)
                > 0
            )
        else:
            there = found(context.client("s3").head_object, **context.names.in_any(bucket), Key=key) is not None
    if not there:
        raise DeployError(model_data, "does not exist", hint="did the training job complete? `python -m deploy status`")


def _among_many(args: argparse.Namespace, context: Context, release: Release) -> Release:
    """A multi-model endpoint serves a prefix; one archive is copied below it first, and callers name it `NAME.tar.gz`."""
    if release.model_data.endswith("/"):
        return release
    if not args.model_name:
        raise DeployError("release", "a multi-model endpoint serves many: under which name?", hint="--as NAME")
    return replace(release, model_data=context.names.uri(MODELS, ""))


def _add_model(context: Context, model_data: str, name: str) -> None:
    """Raises Refused where the name is another artifact's: an instance that has loaded that one would go on serving it."""
    bucket, _, key = model_data.removeprefix("s3://").partition("/")
    s3, copy = context.client("s3"), context.names.in_bucket | {"Key": f"{MODELS}/{name}.tar.gz"}
    origin = {"source": quote(model_data, safe=":/")}  # so that an interrupted release knows its own copy again
    with explained(model_data):
        there = found(s3.head_object, **copy)
        if there is None:
            source = {"Bucket": bucket, "Key": key}
            s3.copy_object(**copy, CopySource=source, MetadataDirective="REPLACE", Metadata=origin)
    if there and there["Metadata"] != origin:
        problem = f"{copy['Key']} is there already, and instances may hold the model that they fetched under this name"
        hint = f"choose another name, such as --as {name}-2: callers name the model they want"
        raise Refused("release", problem, hint=hint)
