"""`images`: build the two images, push them, and answer with their digests; everything after this names images by digest.

The docker CLI builds (the SDK has no BuildKit), the docker SDK runs, pushes and inspects. ECR's login comes from its API; any
other registry (`--registry`) is logged in to as `docker login` left it.
"""

import argparse
import base64
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Column, Table

from deploy import image_trial
from deploy.context import Context
from deploy.engine import found
from deploy.errors import DeployError, Refused, explained
from deploy.registry import CUDA_LABEL

IMAGES = ("train", "serve")
ROOT = Path(__file__).parents[1]
Login = dict[str, str] | None
# Newer engines would push an index of image and attestation, and SageMaker takes a plain image only; and that only as Docker
# writes it, not as OCI does (CreateModel: "Unsupported manifest media type", aws/amazon-sagemaker-feedback issue 180)
_BUILD = {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
PLAIN = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """`reference` is `registry/repository@sha256:…`; `pushed` is False where this tag was in the registry already."""

    image: str
    reference: str
    tag: str
    cuda: str
    pushed: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="train, serve; both where none is named")
    parser.add_argument("--tag", help="default: the commit, with the time where files differ from it")
    parser.add_argument("--registry", help="host[:port] of a registry other than the stage's ECR")
    parser.add_argument("--no-build", action="store_true", help="push what was built before")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="passed to docker build, as COMPILE=1"
    )


def run(args: argparse.Namespace, context: Context) -> None:
    """Raises Refused for an unknown image, a repository or an engine that is not there, or an image that does not start,
    DeployError where build or push fail.
    """
    chosen = args.images or list(IMAGES)
    if unknown := set(chosen) - set(IMAGES):
        raise Refused("images", f"no such image: {', '.join(sorted(unknown))}", hint=f"choose from {', '.join(IMAGES)}")
    tag = args.tag or tag_of(ROOT, context)
    names = context.names_in("0" * 12) if args.registry else context.names
    host = args.registry or names.registry
    targets = {image: f"{host}/{names.repository(image)}" for image in chosen}
    if context.dry_run:
        planned = [{"image": image, "target": f"{target}:{tag}"} for image, target in targets.items()]
        context.emit(planned, lambda: "\n".join(f"would build and push {row['target']}" for row in planned))
        return
    if not args.registry:
        _require_repositories(context, chosen)
    engine = connect()
    login = None if args.registry else ecr_login(context)
    results = []
    for image, target in targets.items():
        with _engine_explained(f"image {image}"):
            if (digest := remote_digest(engine, f"{target}:{tag}", login)) is None:
                if not args.no_build:
                    build(image, f"{target}:{tag}", tag, args.build_arg, output=output(engine))
                image_trial.check(context, engine, image, f"{target}:{tag}")
                digest, pushed = push(engine, target, tag, login, context), True
            else:
                ignored = ": nothing is built of --build-arg; give what you want another --tag" if args.build_arg else ""
                context.say(f"{target}:{tag} is in the registry already{ignored}")
                pushed = False
            look_at_type(context, engine, f"{target}@{digest}", login)
            cuda = label(engine, f"{target}:{tag}", f"{target}@{digest}", login)
        results.append(Pushed(image=image, reference=f"{target}@{digest}", tag=tag, cuda=cuda, pushed=pushed))
    context.emit([asdict(result) for result in results], lambda: _table(results))


def _require_repositories(context: Context, images: Sequence[str]) -> None:
    """Raises Refused where there is none to push to: before minutes of building, not after them."""
    for image in images:
        name = context.names.repository(image)
        with explained(f"repository/{name}"):
            there = found(context.client("ecr").describe_repositories, repositoryNames=[name])
        if there is None:
            raise Refused(f"repository/{name}", "does not exist", hint="`python -m deploy apply` makes the repositories")


@contextmanager
def _engine_explained(where: str) -> Iterator[None]:
    """What the engine says where no call below has better words for it."""
    try:
        yield
    except DockerException as error:
        raise DeployError(where, f"the Docker engine says: {error}", hint="the same command again goes on") from error


def tag_of(root: Path, context: Context) -> str:
    """`git-<commit>`, with the time where the working tree differs from it: tags in ECR cannot be moved."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - git
    except (OSError, subprocess.CalledProcessError):
        raise Refused("images", "the tag is the commit, but this is no git checkout", hint="give one with --tag") from None
    moment = context.clock.now().strftime("-%Y%m%d-%H%M%S") if described.endswith("-dirty") else ""
    return f"git-{described}{moment}"


def connect() -> docker.DockerClient:
    """Raises Refused when no engine answers."""
    try:
        engine = docker.from_env(timeout=600)
        engine.ping()
    except (DockerException, OSError) as error:
        hint = "start Docker, or set DOCKER_HOST"
        raise Refused("images", f"no Docker engine answers: {error}", hint=hint) from error
    return engine


def output(engine: docker.DockerClient) -> list[str]:
    """Flags of `docker build` with which the engine keeps the image as Docker writes it.

    Only one that keeps images in containerd needs any (the default since version 29), and only such a one knows them.
    """
    containerd = ["driver-type", "io.containerd.snapshotter.v1"] in (engine.info().get("DriverStatus") or [])
    return ["--output", "type=image,oci-mediatypes=false"] if containerd else []


def build(image: str, name: str, version: str, build_args: list[str], *, output: Sequence[str] = (), root: Path = ROOT) -> None:
    """`docker build --target IMAGE`; its progress goes to the terminal. Raises DeployError."""
    command = ["docker", "build", "--file", str(root / "containers/Dockerfile"), "--target", image, "--tag", name]
    command += [*output, "--build-arg", f"VERSION={version}"]
    for argument in build_args:
        command += ["--build-arg", argument]
    try:
        done = subprocess.run([*command, str(root)], env=os.environ | _BUILD, check=False, stdout=2)  # noqa: S603
    except OSError as error:
        raise Refused(f"image {image}", f"the docker command cannot be run: {error}", hint="install Docker's CLI") from error
    if done.returncode:
        hint = "the reason is in the output above"
        raise DeployError(f"image {image}", f"docker build ended with {done.returncode}", hint=hint)


def ecr_login(context: Context) -> Login:
    """ECR's password for the next twelve hours."""
    with explained("ECR login"):
        data = context.client("ecr").get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return {"username": user, "password": password}


def remote_digest(engine: docker.DockerClient, name: str, login: Login) -> str | None:
    """The digest that `name` has in its registry, None where there is no such image."""
    try:
        return str(engine.images.get_registry_data(name, auth_config=login).id)
    except NotFound:
        return None
    except APIError as error:
        if "manifest unknown" in str(error) or "not found" in str(error):
            return None
        raise DeployError(
            name, f"the registry cannot be asked: {error.explanation or error}", hint=_hint(str(error))
        ) from error


def look_at_type(context: Context, engine: docker.DockerClient, by_digest: str, login: Login) -> None:
    """Says where SageMaker may not take the image's manifest: somebody else built it, or an engine that we do not know."""
    kind = engine.images.get_registry_data(by_digest, auth_config=login).attrs["Descriptor"]["mediaType"]
    if kind != PLAIN:
        context.say(
            f"{by_digest} is of type {kind}, and SageMaker's CreateModel is known to take {PLAIN} only: where `release` is "
            "refused, build and push it again under another tag: `python -m deploy images --tag ANOTHER`"
        )


def push(engine: docker.DockerClient, target: str, tag: str, login: Login, context: Context) -> str:
    """Push `target:tag` and return its digest. Errors are items of the engine's stream: the SDK raises none of them."""
    stream = engine.api.push(target, tag, stream=True, decode=True, auth_config=login)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    digest = ""
    with Progress(*columns, console=context.console, transient=True) as progress:
        layers: dict[str, Any] = {}
        for item in stream:
            if "error" in item:
                raise DeployError(f"push of {target}:{tag}", str(item["error"]), hint=_hint(str(item["error"])))
            digest = item.get("aux", {}).get("Digest", digest)
            detail, layer = item.get("progressDetail") or {}, item.get("id", "")
            if detail.get("total"):
                if layer not in layers:
                    layers[layer] = progress.add_task(layer)
                progress.update(layers[layer], completed=detail["current"], total=detail["total"])
    if not digest:
        raise DeployError(f"push of {target}:{tag}", "the registry named no digest", hint="push again")
    return digest


def _hint(message: str) -> str:
    if "denied" in message or "unauthorized" in message or "authentication" in message:
        return "docker login to this registry (ECR: check AWS_PROFILE and the deployer's policy)"
    if "tag does not exist" in message or "does not exist locally" in message:
        return "leave out --no-build"
    if "does not exist" in message or "name unknown" in message:
        return "`python -m deploy apply` makes the repositories"
    return "check that the registry can be reached from this machine's Docker engine"


def label(engine: docker.DockerClient, name: str, by_digest: str, login: Login) -> str:
    """The CUDA version inside the image. One that was pushed from elsewhere is pulled for it.

    Raises DeployError where it cannot be: a layer whose bytes are not its digest's, for one.
    """
    try:
        image = engine.images.get(name)
    except ImageNotFound:
        try:
            image = engine.images.pull(by_digest, auth_config=login)
        except APIError as error:
            hint = "push the image again, under another --tag, from a machine that has it"
            raise DeployError(by_digest, f"cannot be pulled: {error.explanation or error}", hint=hint) from error
    return str(image.labels.get(CUDA_LABEL, "none"))


def _table(results: list[Pushed]) -> Table:
    table = Table("image", Column("reference", overflow="fold"), "tag", "CUDA", "")  # cut off, it could not be copied
    for result in results:
        table.add_row(result.image, result.reference, result.tag, result.cuda, "pushed" if result.pushed else "was there")
    return table
