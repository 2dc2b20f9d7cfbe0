"""Two models on one GPU behind one front."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from tests.support.gpu import assert_close, gpu_serving, probabilities

PATIENCE = 200


def on_the_gpu() -> set[int]:
    """Processes that have memory on a GPU. Empty where the driver tells nobody, as in a container."""
    command = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return set()
    return {int(line) for line in shown.split() if line.isdigit()}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multi")
    with gpu_serving(folder, folder / "log", {"SAGEMAKER_MULTI_MODEL": "true"}, fronts=0) as running:
        yield running


def test_models_share_the_gpu_and_one_that_is_unloaded_gives_its_memory_back(server, small, resnet, record_property):
    def load(name: str, subject) -> requests.Response:
        model = {"model_name": name, "url": str(subject.model_dir)}
        return requests.post(f"{server.url}/models", json=model, timeout=PATIENCE)

    def invoke(name: str, body: bytes) -> requests.Response:
        headers = {"Content-Type": "image/jpeg"}
        return requests.post(f"{server.url}/models/{name}/invoke", data=body, headers=headers, timeout=PATIENCE)

    subjects = {"tiny": small, "resnet": resnet}
    with ThreadPoolExecutor(2) as pool:
        loads = list(pool.map(lambda name: load(name, subjects[name]), subjects))
    assert [answer.status_code for answer in loads] == [200, 200], [answer.text for answer in loads]
    assert [event["device"] for event in server.events("model loaded")] == ["cuda:0", "cuda:0"]
    for name, subject in subjects.items():
        answers = np.stack([probabilities(invoke(name, body)) for body in subject.photos])
        assert_close(answers, subject.expected, subject.tolerance)
    models = {process.pid for process in server.processes("kennel-model")}
    seen = on_the_gpu() & models
    assert len(models) == 2
    assert requests.delete(f"{server.url}/models/resnet", timeout=PATIENCE).status_code == 200
    (left,) = {process.pid for process in server.processes("kennel-model")}
    assert left in models
    record_property("seen by nvidia-smi", len(seen))
    if seen:
        assert seen == models
        assert on_the_gpu() & models == {left}
    listed = requests.get(f"{server.url}/models", timeout=PATIENCE).json()["models"]
    assert [model["modelName"] for model in listed] == ["tiny"]
    assert invoke("tiny", small.photos[0]).status_code == 200
    assert invoke("resnet", resnet.photos[0]).status_code == 404
