"""A server on a GPU as its users start it: what it runs on, and that it answers what the model answers on a CPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import torch

from containers.core import accelerator
from containers.core.manifest import HALF_TOLERANCE
from tests.support.artifacts import photo
from tests.support.gpu import gpu_serving, probabilities, together

SURE = 2 * HALF_TOLERANCE
"""Two classes this far apart on the CPU are in the same order on the GPU."""


def assert_close(answers: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(answers, expected, atol=HALF_TOLERANCE)
    first, second = np.sort(expected)[:, ::-1][:, :2].T
    sure = first - second > SURE
    assert sure.mean() > 0.5, "most photos of this model have one class that stands out"
    np.testing.assert_array_equal(answers[sure].argmax(1), expected[sure].argmax(1))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_with_its_defaults_it_serves_from_the_gpu_with_a_graph_for_every_batch_size(resnet, tmp_path, device):
    with gpu_serving(resnet.model_dir, tmp_path / "log", device=device, fronts=0) as server:
        (loaded,) = server.events("model loaded")
        assert (loaded["engine"], loaded["device"]) == ("eager", "cuda:0")
        assert loaded["cuda_graphs"] == [1, 2, 4, 8]
        assert loaded["golden_difference"] <= HALF_TOLERANCE
        assert not server.events("no CUDA graphs: small batches take longer")
        alone = np.stack([probabilities(server.invoke(body)) for body in resnet.photos])
        with ThreadPoolExecutor(len(resnet.photos)) as pool:
            at_once = np.stack([probabilities(future.result()) for future in together(server, pool, resnet.photos)])
        metrics = requests.get(f"{server.url}/metrics", timeout=60).text
        assert server.stop() == 0
    assert_close(alone, resnet.expected)
    assert_close(at_once, resnet.expected)
    counts = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")}
    assert counts["kennel_batch_photos_sum"] == 2 * len(resnet.photos)
    of_eight = counts['kennel_batch_photos_bucket{le="+Inf"}'] - counts['kennel_batch_photos_bucket{le="4.0"}']
    assert of_eight >= len(resnet.photos) // 8  # those that came at once
    worst = [float(np.abs(answers - resnet.expected).max()) for answers in (alone, at_once)]
    print("largest difference from the CPU: {:.4f} alone, {:.4f} at once".format(*worst))


@pytest.mark.parametrize("settings", [{"cuda_graphs": "off"}, {"engine": "eager"}], ids=str)
def test_what_may_be_forced(resnet, tmp_path, settings):
    with gpu_serving(resnet.model_dir, tmp_path / "log", **settings) as server:
        (loaded,) = server.events("model loaded")
        assert (loaded["engine"], loaded["device"]) == ("eager", "cuda:0")
        assert loaded["cuda_graphs"] == ([] if "cuda_graphs" in settings else [1, 2, 4, 8])
        assert not server.events("no CUDA graphs: small batches take longer")  # nothing failed
        assert_close(np.stack([probabilities(server.invoke(body)) for body in resnet.photos]), resnet.expected)


def test_two_models_on_one_gpu_and_the_memory_of_one_that_is_unloaded(resnet, small, tmp_path, gpu):
    def free_mb() -> float:
        return torch.cuda.mem_get_info(gpu)[0] / 2**20

    environ = {"SAGEMAKER_MULTI_MODEL": "true"}
    with gpu_serving(tmp_path, tmp_path / "log", environ, fronts=0) as server:

        def load(name: str, directory) -> None:
            model = {"model_name": name, "url": str(directory)}
            answer = requests.post(f"{server.url}/models", json=model, timeout=300)
            assert answer.status_code == 200, answer.text

        def invoke(name: str, body: bytes) -> requests.Response:
            headers = {"Content-Type": "image/jpeg"}
            return requests.post(f"{server.url}/models/{name}/invoke", data=body, headers=headers, timeout=300)

        load("tiny", small)
        before = free_mb()
        load("resnet", resnet.model_dir)
        while_loaded = free_mb()
        assert before - while_loaded > 100  # its context, weights and graphs
        probabilities(invoke("tiny", photo(1, format="JPEG")))
        assert_close(np.stack([probabilities(invoke("resnet", body)) for body in resnet.photos]), resnet.expected)
        assert [event["device"] for event in server.events("model loaded")] == ["cuda:0", "cuda:0"]
        assert requests.delete(f"{server.url}/models/resnet", timeout=300).status_code == 200
        after = free_mb()
        assert after > before - 32, f"free: {before:.0f} MB before, {while_loaded:.0f} while it was loaded, {after:.0f} after"
        assert [model["modelName"] for model in requests.get(f"{server.url}/models", timeout=60).json()["models"]] == ["tiny"]
        probabilities(invoke("tiny", photo(1, format="JPEG")))
        assert invoke("resnet", resnet.photos[0]).status_code == 404


def test_the_precision_and_the_layout_are_what_this_gpu_is_fast_with(resnet, gpu):
    """Seen from inside: what each convolution of the engine's own forward pass is given and makes."""
    from containers.core import artifact
    from containers.serve.engines import eager

    found = accelerator.detect("cuda")
    expected = torch.bfloat16 if torch.cuda.get_device_capability(gpu) >= (8, 0) else torch.float16
    assert found.amp_dtype is expected
    model = artifact.load(resnet.model_dir).build()
    seen: list[tuple[torch.dtype, torch.dtype, bool, bool]] = []

    def look(module, inputs, output) -> None:
        layouts = [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (module.weight, output)]
        seen.append((module.weight.dtype, output.dtype, *layouts))

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(look)
    forward = eager._forward(model, resnet.facts, found)
    with torch.inference_mode():
        answers = forward(torch.from_numpy(resnet.pixels[:8]).to(gpu))
    assert len(seen) == 53  # of a ResNet-50
    assert set(seen) == {(expected, expected, True, True)}
    assert (answers.dtype, answers.device) == (torch.float32, gpu)
