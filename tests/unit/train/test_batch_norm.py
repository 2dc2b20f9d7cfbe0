"""A photo that is alone in a pass, where every map is a single pixel."""

import math

import pytest

from containers.train import batch_norm
from tests.support.training import events, make_index, train


@pytest.mark.parametrize(
    ("architecture", "image_size", "least"),
    [
        ("resnet18", 32, 2),
        ("mobilenet_v3_small", 32, 2),
        ("efficientnet_b0", 32, 2),
        ("resnet18", 33, 1),
        ("mobilenet_v3_small", 64, 1),
        ("squeezenet1_1", 32, 1),  # no batch norm
        ("convnext_tiny", 32, 1),  # layer norm
        ("vit_b_16", 224, 1),
    ],
)
def test_two_photos_are_needed_where_a_map_is_one_pixel(architecture, image_size, least):
    assert batch_norm.least_photos(architecture, image_size) == least


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_last_step_of_one_photo_trains_at_the_smallest_size(job, tmp_path, world_size):
    """Nine photos in steps of eight: one rank has one photo in the last, the other none."""
    tiny = job(image_size=32, head_epochs=0, epochs=2, index=make_index(tmp_path / "nine", train=9))
    rows = events(train(tiny, world_size), "epoch")
    assert [row["step"] for row in rows] == [2, 4]
    assert all(math.isfinite(row["train_loss"]) and math.isfinite(row["valid_loss"]) for row in rows)
