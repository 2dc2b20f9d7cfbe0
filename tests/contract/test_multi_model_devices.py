"""Where a multi-model server on a host with two GPUs puts its models. The GPUs are made up, as in test_serving_devices.py."""

from pathlib import Path

import pytest

from tests.support.multi_model import Models
from tests.support.scripted import scripted, with_gpus
from tests.support.server import UNHURRIED


def gpu(models: Models, directory: Path) -> str:
    """As CUDA_VISIBLE_DEVICES of the model's own server names it."""
    return models.supervisor(directory).environ()["CUDA_VISIBLE_DEVICES"]


@pytest.mark.slow
def test_a_model_goes_to_the_gpu_that_has_the_fewest_and_sees_no_other(model_dir: Path, tmp_path: Path):
    environ = {"SAGEMAKER_MULTI_MODEL": "true", **with_gpus(tmp_path, 2)}
    directories = {name: tmp_path / name for name in "abcd"}
    for directory in directories.values():
        directory.symlink_to(model_dir)
    with scripted(Path("/nowhere"), tmp_path, environ, fronts=0, model_processes=0, **UNHURRIED) as engine:
        models = Models(engine)

        def load(name: str) -> str:
            assert models.load(name, directories[name]).status_code == 200
            assert models.invoke(name).status_code == 200
            return gpu(models, directories[name])

        assert [load(name) for name in "abc"] == ["0", "1", "0"]
        assert models.unload("a").status_code == 200
        assert models.unload("c").status_code == 200
        assert load("d") == "0"
        told = engine.server.events("model loaded")
        assert {event["model_name"]: event["device"] for event in told} == dict.fromkeys("abcd", "cuda:0")
