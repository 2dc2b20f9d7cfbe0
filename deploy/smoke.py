"""`smoke`: the artifact's golden photo through the endpoint and through the Lambda, compared with what training computed."""

import argparse
import base64
import json
import tarfile
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from pydantic import ValidationError
from rich.table import Table

from containers.core.manifest import GOLDEN_FILE, HALF_TOLERANCE, MANIFEST_FILE, Manifest
from deploy import releases
from deploy.context import Context
from deploy.errors import DeployError, code_of, explained
from deploy.names import ALIAS

KINDS = ("real-time", "serverless")
"""Endpoints that answer at once, with one model."""
_OURS = "release what `python -m deploy train` wrote, or say --no-smoke for a model of another kind"
_LOG = "is it this project's serving image? `python -m deploy logs endpoint` shows what it does"
_BUSY = (503, 504)  # overloaded, or too slow under others' load


class WrongAnswer(DeployError):
    """What was asked answered, and not what training computed. Any other error says nothing of the model."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """`probabilities` by class name, as training computed them for `photo`."""

    photo: bytes
    probabilities: dict[str, float]
    tolerance: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace, context: Context) -> None:
    del args
    release = releases.live(context)
    if release is None:
        raise DeployError(f"endpoint {context.names.endpoint}", "does not exist", hint="`python -m deploy release`")
    if context.config.endpoint.kind not in KINDS:
        problem = (
            f"a {context.config.endpoint.kind} endpoint does not answer at once, or not with one model: nothing to compare"
        )
        raise DeployError(
            "smoke", problem, hint=f"only {' and '.join(KINDS)} endpoints have a smoke test: send it a photo yourself"
        )
    if context.dry_run:
        size, through = len(read_golden(context, release.model_data).photo), ways(context)
        context.emit(
            {"would_send": size, "through": through}, lambda: f"would send {size} bytes through {' and '.join(through)}"
        )
        return
    golden = read_golden(context, release.model_data)
    rows = [ask(context, way, golden) for way in ways(context)]
    context.emit(rows, lambda: _table(rows))


def ways(context: Context) -> list[str]:
    """Into the endpoint: itself first."""
    return ["endpoint", "function"] if context.config.function.enabled else ["endpoint"]


def read_golden(context: Context, model_data: str) -> Golden:
    """Streams the archive from S3 only as far as needed."""
    bucket, _, key = model_data.removeprefix("s3://").partition("/")
    wanted: dict[str, bytes] = {}
    with explained(model_data):
        body = context.client("s3").get_object(**context.names.in_any(bucket), Key=key)["Body"]
        try:
            with tarfile.open(fileobj=body, mode="r|gz") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if name in (MANIFEST_FILE, GOLDEN_FILE) and (file := archive.extractfile(member)):
                        wanted[name] = file.read()
                    if len(wanted) == 2:
                        break
        except tarfile.TarError as error:
            raise DeployError(model_data, f"is not a .tar.gz archive: {error}", hint=_OURS) from error
    if len(wanted) < 2:
        problem = f"holds no {MANIFEST_FILE} and {GOLDEN_FILE}: it was not written by this train image"
        raise DeployError(model_data, problem, hint=_OURS)
    try:
        manifest = Manifest.model_validate_json(wanted[MANIFEST_FILE])
    except ValidationError as error:
        raise DeployError(model_data, f"its {MANIFEST_FILE} is not ours: {error.errors()[0]['msg']}", hint=_OURS) from error
    tolerances = [manifest.golden.tolerance, *(engine.tolerance for engine in manifest.engines), HALF_TOLERANCE]
    expected = dict(zip(manifest.class_names, manifest.golden.probabilities, strict=True))
    return Golden(photo=wanted[GOLDEN_FILE], probabilities=expected, tolerance=max(tolerances))


def ask(context: Context, way: str, golden: Golden) -> dict[str, Any]:
    """The answer as a row. Raises WrongAnswer, or DeployError where none was to be had."""
    call = {"endpoint": _through_endpoint, "function": _through_function}[way]
    started = context.clock.monotonic()
    with explained(f"smoke through the {way}"):
        try:
            answer = call(context, golden.photo)
        except ValueError as error:  # of json
            raise WrongAnswer(f"smoke through the {way}", f"an answer that is no JSON: {error}", hint=_LOG) from None
    milliseconds = (context.clock.monotonic() - started) * 1000
    try:
        prediction = answer["predictions"][0]
        seen = {name: float(value) for name, value in prediction["probabilities"].items()}
    except (KeyError, IndexError, TypeError, AttributeError):
        raise WrongAnswer(f"smoke through the {way}", f"an answer of another shape: {str(answer)[:300]}", hint=_LOG) from None
    off = max((abs(seen.get(name, -1.0) - value) for name, value in golden.probabilities.items()), default=1.0)
    if off > golden.tolerance or seen.keys() != golden.probabilities.keys():
        best = max(golden.probabilities, key=lambda name: golden.probabilities[name])
        problem = f"the golden photo is {best} for training, here {prediction.get('class')}; probabilities differ by {off:.3g}"
        raise WrongAnswer(f"smoke through the {way}", problem, hint="is the artifact the one that was meant? `status` names it")
    return {"way": way, "class": prediction.get("class"), "difference": round(off, 6), "milliseconds": round(milliseconds, 1)}


def _through_endpoint(context: Context, photo: bytes) -> Any:
    try:
        answer = context.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=context.names.endpoint, Body=photo, ContentType="image/png", Accept="application/json"
        )
    except ClientError as error:
        if code_of(error) != "ModelError" or error.response.get("OriginalStatusCode") in _BUSY:
            raise
        said = f"{error.response.get('OriginalStatusCode')}: {error.response.get('OriginalMessage')}"
        raise WrongAnswer("smoke through the endpoint", f"the container answers {said}"[:300], hint=_LOG) from error
    return json.loads(answer["Body"].read())


def _through_function(context: Context, photo: bytes) -> Any:
    """The alias, as callers do: the bare name would miss the warm environments."""
    event = {"image": base64.b64encode(photo).decode(), "content_type": "image/png"}
    answer = context.client("lambda").invoke(
        FunctionName=context.names.function, Qualifier=ALIAS, Payload=json.dumps(event).encode()
    )
    payload = json.loads(answer["Payload"].read())
    if answer.get("FunctionError") or not isinstance(payload, dict) or payload.get("statusCode") != 200:
        raise DeployError("smoke through the function", f"answered {str(payload)[:300]}", hint="`python -m deploy logs lambda`")
    return json.loads(payload["body"])


def _table(rows: list[dict[str, Any]]) -> Table:
    result = Table(title="The golden photo")
    for heading in ("through", "class", "largest difference", "milliseconds"):
        result.add_column(heading)
    for row in rows:
        result.add_row(row["way"], str(row["class"]), f"{row['difference']:g}", f"{row['milliseconds']:g}")
    return result
