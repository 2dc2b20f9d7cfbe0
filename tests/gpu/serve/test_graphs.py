"""CUDA graphs as they are recorded and replayed, without a server around them."""

import gc
import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from containers.core import accelerator, artifact
from containers.core.manifest import HALF_TOLERANCE
from containers.serve.engines import eager
from containers.serve.engines.cuda_graphs import CudaRecorder, Graphs
from containers.serve.predictor import Predictor

LARGEST = 12
"""Not a power of two: the last graph is of this size."""


class Bench:
    """ResNet-50's forward pass on the GPU, plain torch around it, and graphs that may be recorded of it."""

    def __init__(self, resnet, largest: int = LARGEST, spoilt: Callable[[Tensor, Tensor], None] | None = None) -> None:
        found = accelerator.detect("cuda")
        whole = eager._forward(artifact.load(resnet.model_dir).build(), resnet.facts, found)
        self.shape, self.device = resnet.facts.preprocessing.shape, found.device

        def forward(pixels: Tensor) -> Tensor:
            answers = whole(pixels)
            if spoilt:
                spoilt(pixels, answers)
            return answers

        self.recorder = CudaRecorder(found.device)
        self.forward = forward
        self.graphs = Graphs(forward, self.plain, self.recorder, device=found.device, tolerance=HALF_TOLERANCE)
        self.predictor = Predictor(self.graphs, largest)

    def plain(self, batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.forward(torch.from_numpy(np.require(batch, requirements="W")).to(self.device)).cpu().numpy()


def test_graphs_answer_as_plain_torch_at_every_batch_size_and_after_hundreds_of_batches(resnet, record_property):
    bench = Bench(resnet)
    bench.predictor.warm_up(bench.shape)
    assert bench.graphs.record(bench.shape, bench.predictor.sizes) == (1, 2, 4, 8, LARGEST)
    expected = np.concatenate([bench.plain(resnet.pixels[start : start + 8]) for start in range(0, len(resnet.pixels), 8)])
    assert np.ptp(expected, axis=0).max() > 0.5  # photos differ, so one's answer for another's would be seen
    replayed = [[size, bench.graphs._recorded[size][0], 0] for size in bench.predictor.sizes]

    def counted(row: list) -> Callable[[], None]:
        def replay() -> None:
            row[2] += 1
            row[1]()

        return replay

    for row in replayed:
        bench.graphs._recorded[row[0]] = counted(row), bench.graphs._recorded[row[0]][1]
    worst = 0.0
    rng = np.random.default_rng(0)
    sizes = [*range(1, LARGEST + 1), *rng.integers(1, LARGEST + 1, 500)]
    for size in sizes:
        chosen = rng.choice(len(resnet.pixels), size, replace=False)
        answers = bench.predictor(resnet.pixels[chosen])
        worst = max(worst, float(np.abs(answers - expected[chosen]).max()))
    record_property("worst", worst)
    assert worst <= HALF_TOLERANCE
    assert [row[2] for row in replayed] == [
        sum(low < size <= high for size in sizes) for low, high in ((0, 1), (1, 2), (2, 4), (4, 8), (8, LARGEST))
    ]
    same = max(float(np.abs(bench.graphs(resnet.pixels[:n]) - bench.plain(resnet.pixels[:n])).max()) for n in (1, 2, 4, 8))
    record_property("worst in the same batches", same)
    assert same <= HALF_TOLERANCE / 3  # the same work on the same photos


def asks(pixels: Tensor, answers: Tensor) -> None:
    if len(pixels) == 2:
        answers.sum().item()  # waits for the GPU: CUDA gives the capture up


def fails(pixels: Tensor, answers: Tensor) -> None:
    if len(pixels) == 2 and torch.cuda.is_current_stream_capturing():
        raise ValueError("not today")  # CUDA goes on: torch ends the capture


@pytest.mark.parametrize("spoilt", [asks, fails])
def test_a_capture_that_fails_leaves_plain_torch_and_gives_all_memory_back(resnet, caplog, spoilt):
    """Those of 64 to 4 photos were recorded before: hundreds of megabytes that torch would keep, were the capture not ended."""
    bench = Bench(resnet, 64, spoilt)
    with bench.recorder.in_order():
        bench.plain(resnet.pixels[:4])  # what CUDA's libraries keep for a stream
    bench.plain(resnet.pixels[:4])
    before = reserved_mb()
    torch.cuda.reset_peak_memory_stats()
    with caplog.at_level(logging.WARNING):
        assert bench.graphs.record(bench.shape, bench.predictor.sizes) == ()
    (line,) = caplog.records
    assert line.message.startswith("no CUDA graphs")
    del line
    caplog.clear()  # it holds the exception, and that the frames
    assert torch.cuda.max_memory_reserved() / 2**20 > before + 100
    after = reserved_mb()
    assert after <= before + 4, f"{before:.0f} MB before, {after:.0f} MB after"
    assert torch.cuda.current_stream(bench.device) == torch.cuda.default_stream(bench.device)
    expected = resnet.expected[:8]
    np.testing.assert_allclose(bench.predictor(resnet.pixels[:8]), expected, atol=HALF_TOLERANCE)
    again = Bench(resnet, 4)  # nothing is left in the way of a recording that works
    assert again.graphs.record(again.shape, again.predictor.sizes) == (1, 2, 4)
    np.testing.assert_allclose(again.predictor(resnet.pixels[:8]), expected, atol=HALF_TOLERANCE)


def reserved_mb() -> float:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved() / 2**20


def test_a_graphs_memory_comes_back_once_it_is_released(resnet):
    bench = Bench(resnet, 64)
    bench.plain(resnet.pixels[:4])
    with bench.recorder.in_order():
        bench.plain(resnet.pixels[:4])
    before = reserved_mb()
    assert len(bench.graphs.record(bench.shape, bench.predictor.sizes)) == 7
    assert reserved_mb() > before + 50
    bench.graphs._recorded.clear()
    bench.graphs._pixels = torch.empty(0)
    bench.recorder.release()
    assert reserved_mb() <= before + 4
