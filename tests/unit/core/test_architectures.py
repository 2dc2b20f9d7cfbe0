"""containers/core/architectures.py: every entry builds, knows its head and splits its parameters. Shapes on the meta device."""

from typing import get_args

import pytest
import torch
from torch import nn
from torchvision import models

from containers.core import architectures
from containers.core.errors import ConfigError
from containers.train.config import ArchitectureName

NAMES = list(architectures.ARCHITECTURES)
CLASSES = 7


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def _photo(name, batch=2):
    side = architectures.lookup(name).preprocessing.crop
    return torch.empty(batch, 3, side, side, device="meta")


def test_the_promised_architectures_are_there():
    assert set(NAMES) == {
        "resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
        "efficientnet_v2_s", "convnext_tiny", "squeezenet1_1", "vit_b_16", "efficientnet_lite0",
    }  # fmt: skip


def test_it_answers_with_one_logit_per_class(name):
    model = architectures.build(name, CLASSES, empty=True).eval()
    assert model(_photo(name)).shape == (2, CLASSES)


def test_the_head_is_the_layer_with_the_classes(name):
    layer = architectures.head(architectures.build(name, CLASSES, empty=True), name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.weight.shape[0] == CLASSES


def test_the_heads_prefix_parts_it_from_the_backbone(name):
    model = architectures.build(name, CLASSES, empty=True)
    every = dict(model.named_parameters())
    head = [n for n in every if n.startswith(architectures.head_prefix(name))]
    backbone = every.keys() - set(head)
    assert {every[n].data_ptr() for n in head} <= {p.data_ptr() for p in architectures.head(model, name).parameters()}
    assert [n.removeprefix(architectures.head_prefix(name)) for n in head] == ["weight", "bias"]
    assert len(backbone) > 20


def test_without_its_head_it_returns_what_the_head_is_fed(name):
    model = architectures.build(name, CLASSES, empty=True).eval()
    head = architectures.head(model, name)
    width = head.weight.shape[1]
    assert architectures.without_head(model, name) is model
    assert model(_photo(name)).shape == (2, width)


def test_settings_may_name_them_and_no_others():
    assert list(get_args(ArchitectureName)) == NAMES


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_lite0"], indirect=False)
def test_features_through_the_head_are_the_models_answer(name):
    torch.manual_seed(0)
    model = architectures.build(name, CLASSES).eval()
    photo = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        whole = model(photo)
        head = architectures.head(model, name)
        torch.testing.assert_close(head(architectures.without_head(model, name)(photo)), whole)


def test_everything_a_model_holds_is_in_its_state_dict(name):
    """A buffer outside it would stay on the meta device after an artifact is loaded."""
    model = architectures.build(name, CLASSES, empty=True)
    held = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    assert held == set(model.state_dict())


def test_preprocessing_and_weights_are_torchvisions_own(name):
    entry = architectures.lookup(name)
    if entry.weights is None:
        pytest.skip("torchvision has no weights of it")
    preset = models.get_weight(entry.weights).transforms()
    ours = entry.preprocessing
    assert (ours.resize, ours.crop) == (preset.resize_size[0], preset.crop_size[0])
    assert (list(ours.mean), list(ours.std)) == (list(preset.mean), list(preset.std))
    assert ours.interpolation == preset.interpolation.value


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean resnet50"):
        architectures.lookup("resnet5")
    with pytest.raises(ConfigError, match="known are resnet18, "):
        architectures.build("llama", 2)
