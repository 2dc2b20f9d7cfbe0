"""python -m tests.conformance IMAGE --data FOLDER | --model FOLDER --payload FILE … (make conformance IMAGE=…)."""

import argparse
import json
import mimetypes
import sys
from pathlib import Path

import docker

from tests.conformance import image, serving, training
from tests.conformance.report import Report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance", description="Does an image keep SageMaker's container contract?")
    parser.add_argument("image")
    train = parser.add_argument_group("training (docker run IMAGE train)")
    train.add_argument(
        "--data", type=Path, help="a folder to train on; each of its subfolders named in --channels is a channel"
    )
    train.add_argument("--channels", default="train,valid,test", help="comma-separated; default %(default)s, where they exist")
    train.add_argument("--hyperparameters", type=json.loads, default={}, help="JSON; should make a job of a minute")
    train.add_argument("--long", type=json.loads, default={}, help="JSON; added, makes a job that lasts until it is stopped")
    train.add_argument("--running-words", default="", help="in the log once training is under way")
    serve = parser.add_argument_group("serving (docker run IMAGE serve)")
    serve.add_argument("--model", type=Path, help="an unpacked model directory")
    serve.add_argument("--payload", type=Path, help="a file with one request")
    serve.add_argument("--content-type", help="of the payload; default: by its name")
    parser.add_argument("--stop-seconds", type=int, help="shorter than SageMaker's 120 s (training) and 30 s (serving)")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    if not (arguments.data or arguments.model):
        parser.error("nothing to do: give --data FOLDER for training, --model FOLDER and --payload FILE for serving")
    if arguments.model and not arguments.payload:
        parser.error("--model needs --payload")
    return arguments


def main() -> int:
    given = _arguments()
    report = Report()
    client = docker.from_env(timeout=120)
    try:
        client.images.get(given.image)
        if given.data:
            channels = {
                name: (given.data / name).resolve() for name in given.channels.split(",") if (given.data / name).is_dir()
            }
            image.check(client, given.image, "train", report)
            target = training.Training(
                client=client,
                image=given.image,
                channels=channels or {"train": given.data.resolve()},
                hyperparameters=given.hyperparameters,
                long=given.long,
                running_words=given.running_words,
                stop_seconds=given.stop_seconds or training.STOP_SECONDS,
            )
            training.check(target, report)
        if given.model:
            image.check(client, given.image, "serve", report)
            kind = given.content_type or mimetypes.guess_type(given.payload.name)[0] or "application/octet-stream"
            model, payload = given.model.resolve(), given.payload.read_bytes()
            stop = given.stop_seconds or serving.STOP_SECONDS
            serving.check(serving.Serving(client, given.image, model, payload, kind, stop_seconds=stop), report)
    except docker.errors.ImageNotFound:
        print(f"image {given.image} is not here: docker pull or build it first", file=sys.stderr)
        return 2
    finally:
        client.close()
    print(report.summary())
    if given.markdown:
        given.markdown.write_text(report.markdown() + "\n", encoding="utf-8")
    return 1 if report.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
