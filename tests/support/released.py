"""Something to release in a fake account: an image with labels, an artifact with a golden photo, and the answers to it."""

import hashlib
import io
import json
import tarfile

from moto.awslambda_simple.models import lambda_simple_backends
from moto.core import DEFAULT_ACCOUNT_ID
from moto.sagemakerruntime.models import sagemakerruntime_backends

from tests.support import moto_ext
from tests.support.aws import REGION, client, release

CLASSES = ("beagle", "poodle", "whippet")
PROBABILITIES = (0.7, 0.2, 0.1)


def archive(probabilities=PROBABILITIES) -> bytes:
    """A model.tar.gz as training writes it, without weights."""
    golden = {"probabilities": probabilities, "tolerance": 1e-4}
    made = {"created": "2026-11-22", "kennel_version": "0", "torch_version": "0"}
    manifest = {"architecture": "resnet18", "class_names": CLASSES, "preprocessing": {}, "golden": golden, "provenance": made}
    files = {"manifest.json": json.dumps(manifest | {"files": {}}).encode(), "golden.png": b"a photo"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def push(name="serve", cuda="12.8", content="a") -> str:
    """Put an image into the stage's repository; its address by digest."""
    labels = {"org.kennel.cuda": cuda} if cuda else {}
    config = json.dumps({"config": {"Labels": labels}, "content": content}).encode()
    config_digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    moto_ext.LAYERS[config_digest] = config
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {"digest": config_digest}, "layers": []})
    digest = f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
    client("ecr").put_image(
        repositoryName=f"kennel/dev/{name}", imageManifest=manifest, imageManifestMediaType=kind,
        imageTag=f"git-{content}", imageDigest=digest,
    )  # fmt: skip
    return f"{DEFAULT_ACCOUNT_ID}.dkr.ecr.{REGION}.amazonaws.com/kennel/dev/{name}@{digest}"


def upload(letter="a", body=None) -> str:
    """Put an artifact where a training job would; its address."""
    uri = release(letter).model_data
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client("s3").put_object(Bucket=bucket, Key=key, Body=archive() if body is None else body)
    return uri


def will_answer(probabilities=PROBABILITIES, through_function=None) -> None:
    """What the endpoint, and the function in front of it, say to the next new question."""
    runtime = sagemakerruntime_backends[DEFAULT_ACCOUNT_ID][REGION]
    runtime.results.clear()
    runtime.results_queue[:] = [(answer(probabilities), "application/json", "main", "")]
    envelope = {"statusCode": 200, "body": answer(through_function or probabilities)}
    lambda_simple_backends[DEFAULT_ACCOUNT_ID][REGION].lambda_simple_results_queue[:] = [json.dumps(envelope)]


def answer(probabilities) -> str:
    best = max(range(len(CLASSES)), key=lambda index: probabilities[index])
    prediction = {"class": CLASSES[best], "probabilities": dict(zip(CLASSES, probabilities, strict=True))}
    return json.dumps({"predictions": [prediction]})
