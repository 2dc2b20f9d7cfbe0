import time

import numpy as np
import pytest

from benchmarks.serving.gpu import bounds, copies
from containers.core import preprocessing
from tests.support import artifacts


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    facts = artifacts.save(folder / "model")
    (folder / "photos").mkdir()
    for index in range(3):
        (folder / "photos" / f"{index}.jpg").write_bytes(artifacts.photo(index, format="JPEG"))
    with bounds.decoding(folder / "photos", folder / "model", 1) as running:
        yield running, folder, facts.preprocessing


def test_every_batch_that_is_taken_holds_decoded_photos_of_the_wanted_number(decoders):
    running, folder, spec = decoders
    expected = [preprocessing.preprocess(p.read_bytes(), spec) for p in sorted((folder / "photos").iterdir())]
    for batch in (8, 5):
        seen: list[np.ndarray] = []
        rate = running.through(lambda block, seen=seen: seen.append(block.copy()), batch, 0.3)
        assert {block.shape for block in seen} == {(batch, *spec.shape)}
        for block in seen[-3:]:
            first = next(index for index in range(3) if np.array_equal(block[0], expected[index]))
            for place, photo in enumerate(block):
                np.testing.assert_array_equal(photo, expected[(first + place) % 3])
        assert 0 < rate <= batch * len(seen) / 0.3


def test_a_slow_taker_is_the_limit(decoders):
    running, _, _ = decoders
    assert running.through(lambda block: time.sleep(0.05), 4, 0.5) <= 4 / 0.05 + 4 / 0.5


def test_the_forward_pass_alone_is_timed_per_batch():
    sizes = []

    def engine(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        time.sleep(0.01)
        return batch

    found = bounds.forward(engine, np.zeros((3, 2, 2, 3), np.uint8), 4, 0.1)
    assert set(sizes) == {4}
    assert found["ms"] >= 10
    assert 0 < found["photos_per_second"] <= 4 / 0.01


def test_the_copies_of_a_batch_are_timed_one_by_one():
    found = copies.milliseconds((8, 8, 3), 4, "cpu", repeats=3)
    assert set(found) == {"gather", "pageable", "gather_kept", "pinned"}
    assert all(value > 0 for value in found.values())
