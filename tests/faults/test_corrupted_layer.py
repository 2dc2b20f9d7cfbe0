"""I10 with a real engine and a real registry whose disk lost bytes: what was pushed is not pulled as something else."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from deploy import images
from deploy.config import load
from deploy.context import Context
from deploy.errors import DeployError
from tests.support.registry import registry
from tests.support.requirement import docker_client

pytestmark = pytest.mark.docker


@pytest.fixture
def pushed(tmp_path):
    """(engine, name with tag, name with digest, the registry's folder) of a small image that is in the registry only."""
    engine, context = docker_client(), Context(load("dev", {"stage": {"region": "eu-west-1"}}, where="test"))
    with registry(tmp_path) as host:
        target = f"{host}/kennel/dev/train"
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            content = os.urandom(200_000)
            entry = tarfile.TarInfo("file")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        engine.api.import_image_from_data(archive.getvalue(), repository=target, tag="v1")
        try:
            digest = images.push(engine, target, "v1", None, context)
            engine.images.remove(f"{target}:v1", force=True)
            yield engine, f"{target}:v1", f"{target}@{digest}", tmp_path / "storage"
        finally:
            for image in engine.images.list(target):
                engine.images.remove(image.id, force=True)


def blob(storage: Path, wanted: str) -> Path:
    """The layer is the largest blob; the manifest is the one that names it."""
    blobs = [path for path in storage.rglob("data") if path.parent.parent.parent.name == "sha256"]
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name for path in blobs)
    layer = max(blobs, key=lambda path: path.stat().st_size)
    return layer if wanted == "layer" else next(path for path in blobs if layer.parent.name.encode() in path.read_bytes())


def test_what_is_whole_is_pulled(pushed):
    engine, name, by_digest, _ = pushed
    assert images.label(engine, name, by_digest, None) == "none"


@pytest.mark.parametrize("wanted", ["layer", "manifest"])
@pytest.mark.parametrize("how", ["altered", "torn"])
def test_what_is_not_its_digest_is_refused_and_named(pushed, wanted, how):
    engine, name, by_digest, storage = pushed
    path = blob(storage, wanted)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "altered" else data[: len(data) // 2])
    with pytest.raises(DeployError, match="cannot be pulled") as refused:
        images.label(engine, name, by_digest, None)
    assert refused.value.where == by_digest
    assert "push the image again" in refused.value.hint
    assert engine.images.list(name.partition(":v1")[0]) == []
