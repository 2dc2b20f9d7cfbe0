"""python -m tests.conformance IMAGE [--data FOLDER …] [--model FOLDER --payload FILE …] (make conformance IMAGE=… ARGS=…)."""

from containers.core import installed

if __name__ == "__main__":
    installed.insist("python -m tests.conformance", "docker", "requests")

import argparse
import json
import mimetypes
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import docker
import requests

from tests.conformance import image, serving, training
from tests.conformance.report import Report


def words(text: str) -> list[str]:
    """The words of ARGS= as they were typed: apart at spaces, together in quotes; the quotes inside JSON stay."""
    try:
        found = shlex.split(text, posix=False)
    except ValueError as error:
        print(f"conformance: ARGS: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    return [word[1:-1] if word[0] in "'\"" and word[0] == word[-1] else word for word in found]


def read(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance", description="Does an image keep SageMaker's container contract?")
    parser.add_argument("image")
    parser.add_argument(
        "--env", action="append", default=[], type=_variable, metavar="NAME=VALUE",
        help="for the container, as CreateTrainingJob's and CreateModel's Environment: what the image needs to run; repeat it",
    )  # fmt: skip
    train = parser.add_argument_group("training (docker run IMAGE train)")
    train.add_argument(
        "--data", type=_folder, help="a folder to train on; each of its subfolders named in --channels is a channel"
    )
    train.add_argument("--channels", default="train,valid,test", help="comma-separated; default %(default)s, where they exist")
    train.add_argument("--hyperparameters", type=json.loads, default={}, help="JSON; should make a job of a minute")
    train.add_argument("--long", type=json.loads, default={}, help="JSON; added, makes a job that lasts until it is stopped")
    train.add_argument("--running-words", default="", help="in the log once training is under way")
    serve = parser.add_argument_group("serving (docker run IMAGE serve)")
    serve.add_argument("--model", type=_folder, help="an unpacked model directory")
    serve.add_argument("--payload", type=Path, help="a file with one request")
    serve.add_argument("--content-type", help="of the payload; default: by its name")
    parser.add_argument("--stop-seconds", type=int, help="shorter than SageMaker's 120 s (training) and 30 s (serving)")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    arguments = parser.parse_args(given)
    if bool(arguments.model) != bool(arguments.payload):
        parser.error("--model and --payload need each other")
    if arguments.payload and not arguments.payload.is_file():
        parser.error(f"--payload: there is no file {arguments.payload}")
    return arguments


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text).resolve()


def main(given: Sequence[str]) -> int:
    """0: no rule is broken; 1: one is; 2: nothing could be looked at."""
    arguments = read(given)
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        print(f"conformance: no Docker engine answers ({str(error)[:120]}): start one", file=sys.stderr)
        return 2
    report = Report()
    try:
        client.images.get(arguments.image)
        image.check(client, arguments.image, report)
        _training(client, arguments, report)
        _serving(client, arguments, report)
    except docker.errors.ImageNotFound:
        print(f"conformance: image {arguments.image} is not here: docker pull or build it first", file=sys.stderr)
        return 2
    finally:
        client.close()
    print(report.summary())
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown() + "\n", encoding="utf-8")
    return 1 if report.failed() else 0


def _training(client: docker.DockerClient, given: argparse.Namespace, report: Report) -> None:
    if not given.data:
        report.not_tried("docker run IMAGE train: every rule of training", "give --data FOLDER", training.RUNNING)
        return
    channels = {name: given.data / name for name in given.channels.split(",") if (given.data / name).is_dir()}
    target = training.Training(
        client=client,
        image=given.image,
        channels=channels or {"train": given.data},
        hyperparameters=given.hyperparameters,
        long=given.long,
        environment=dict(given.env),
        running_words=given.running_words,
        stop_seconds=given.stop_seconds or training.STOP_SECONDS,
    )
    training.check(target, report)


def _serving(client: docker.DockerClient, given: argparse.Namespace, report: Report) -> None:
    if not given.model:
        why = "give --model FOLDER and --payload FILE"
        report.not_tried("docker run IMAGE serve: every rule of serving", why, serving.INFERENCE)
        return
    target = serving.Serving(
        client=client,
        image=given.image,
        model=given.model,
        payload=given.payload.read_bytes(),
        content_type=given.content_type or mimetypes.guess_type(given.payload.name)[0] or "application/octet-stream",
        environment=dict(given.env),
        stop_seconds=given.stop_seconds or serving.STOP_SECONDS,
    )
    serving.check(target, report)


if __name__ == "__main__":
    sys.exit(main([*sys.argv[1:], *words(os.environ.get("CONFORMANCE_ARGS", ""))]))
