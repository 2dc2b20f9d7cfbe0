"""The classifiers Kennel trains and serves, one table entry each.

To add one: an entry in `ARCHITECTURES`. `head` is the dotted path of the last Linear (or 1×1 Conv) layer; everything
before it is the backbone, in the field's sense.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torchvision import models

from containers.core.efficientnet_lite import EfficientNetLite0
from containers.core.errors import ConfigError
from containers.core.preprocessing import PreprocessSpec


@dataclass(frozen=True, kw_only=True)
class Architecture:
    builder: Callable[..., nn.Module]
    head: str
    preprocessing: PreprocessSpec = field(default_factory=PreprocessSpec)
    weights: str | None = None  # torchvision's name of the ImageNet weights, None where torchvision has none


def _spec(resize: int, crop: int = 224, interpolation: str = "bilinear") -> PreprocessSpec:
    return PreprocessSpec.model_validate({"resize": resize, "crop": crop, "interpolation": interpolation})


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(builder=models.resnet18, head="fc", weights="ResNet18_Weights.IMAGENET1K_V1"),
    "resnet34": Architecture(builder=models.resnet34, head="fc", weights="ResNet34_Weights.IMAGENET1K_V1"),
    "resnet50": Architecture(
        builder=models.resnet50, head="fc", preprocessing=_spec(232), weights="ResNet50_Weights.IMAGENET1K_V2"
    ),
    "mobilenet_v3_small": Architecture(
        builder=models.mobilenet_v3_small, head="classifier.3", weights="MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    ),
    "mobilenet_v3_large": Architecture(
        builder=models.mobilenet_v3_large,
        head="classifier.3",
        preprocessing=_spec(232),
        weights="MobileNet_V3_Large_Weights.IMAGENET1K_V2",
    ),
    "efficientnet_b0": Architecture(
        builder=models.efficientnet_b0,
        head="classifier.1",
        preprocessing=_spec(256, interpolation="bicubic"),
        weights="EfficientNet_B0_Weights.IMAGENET1K_V1",
    ),
    "efficientnet_v2_s": Architecture(
        builder=models.efficientnet_v2_s,
        head="classifier.1",
        preprocessing=_spec(384, 384),
        weights="EfficientNet_V2_S_Weights.IMAGENET1K_V1",
    ),
    "convnext_tiny": Architecture(
        builder=models.convnext_tiny,
        head="classifier.2",
        preprocessing=_spec(236),
        weights="ConvNeXt_Tiny_Weights.IMAGENET1K_V1",
    ),
    "squeezenet1_1": Architecture(
        builder=models.squeezenet1_1, head="classifier.1", weights="SqueezeNet1_1_Weights.IMAGENET1K_V1"
    ),
    "vit_b_16": Architecture(builder=models.vit_b_16, head="heads.head", weights="ViT_B_16_Weights.IMAGENET1K_V1"),
    "efficientnet_lite0": Architecture(builder=EfficientNetLite0, head="classifier.1"),
}


def lookup(name: str) -> Architecture:
    """Raises ConfigError naming the nearest known architecture."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(ARCHITECTURES)}"
        raise ConfigError(f"architecture {name!r} is not known; {hint}") from None


def build(name: str, num_classes: int, *, empty: bool = False) -> nn.Module:
    """The model with `num_classes` outputs and random weights: float (N, 3, S, S) → logits (N, num_classes).

    `empty=True` builds it without memory or random numbers, for `load_state_dict(…, assign=True)`.
    """
    with torch.device("meta" if empty else "cpu"):
        return lookup(name).builder(num_classes=num_classes)


def head(model: nn.Module, name: str) -> nn.Module:
    """The layer whose outputs are the classes."""
    return model.get_submodule(lookup(name).head)


def head_prefix(name: str) -> str:
    """Parameters whose names start with this belong to the head."""
    return lookup(name).head + "."


def without_head(model: nn.Module, name: str) -> nn.Module:
    """`model` itself with its head replaced by Identity, so that it returns the head's inputs (cached as features)."""
    parent, _, child = lookup(name).head.rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, child, nn.Identity())
    return model
