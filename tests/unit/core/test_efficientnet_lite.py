"""containers/core/efficientnet_lite.py: the published architecture, counted and padded as TensorFlow does."""

import torch

from containers.core.efficientnet_lite import EfficientNetLite0


def test_parameter_count_is_the_published_one():
    """4,652,008: timm's tf_efficientnet_lite0 and the paper's 4.7 M."""
    with torch.device("meta"):
        assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 4_652_008


def test_strides_reduce_the_photo_32_times():
    with torch.device("meta"):
        model = EfficientNetLite0(num_classes=3).eval()
        assert model.features(torch.empty(1, 3, 224, 224)).shape == (1, 1280, 7, 7)
        assert model(torch.empty(1, 3, 64, 96)).shape == (1, 3)


def test_padding_is_tensorflows_same_padding():
    """A 3×3 kernel at stride 2 pads right and bottom only, a 5×5 pads 1 before and 2 after."""
    with torch.device("meta"):
        model = EfficientNetLite0()
    pads = [tuple(m.padding) for m in model.modules() if isinstance(m, torch.nn.ZeroPad2d)]
    assert pads == [(0, 1, 0, 1), (0, 1, 0, 1), (1, 2, 1, 2), (0, 1, 0, 1), (1, 2, 1, 2)]


def test_there_is_no_squeeze_and_excitation_and_every_activation_is_relu6():
    with torch.device("meta"):
        kinds = {type(m).__name__ for m in EfficientNetLite0().modules()}
    assert "SqueezeExcitation" not in kinds
    assert not kinds & {"SiLU", "ReLU", "Hardswish"}
    assert "ReLU6" in kinds
