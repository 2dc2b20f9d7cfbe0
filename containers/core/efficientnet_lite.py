"""EfficientNet-Lite0 from torchvision's own blocks: EfficientNet-B0 without squeeze-and-excitation, with ReLU6.

Torchvision has no such model; its ImageNet weights come with a package, so demo and tests need no download of weights.
Layout and names follow torchvision's MobileNetV2: `features`, then `classifier`, whose last layer is the head.
Source of the architecture: tensorflow/tpu, models/official/efficientnet/lite.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

# expand ratio, kernel, stride, in, out, repeats
_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
_LAST = 1280
_Activation = Callable[..., nn.Module] | None


def _conv(
    channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1, activation: _Activation = nn.ReLU6
) -> nn.Module:
    """Convolution, batch norm, activation, with TensorFlow's SAME padding (asymmetric where the stride is 2)."""
    block: nn.Module = Conv2dNormActivation(
        *channels,
        kernel,
        stride,
        padding=kernel // 2 if stride == 1 else 0,
        groups=groups,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
        activation_layer=activation,
    )
    if stride == 1:
        return block
    low, high = (kernel - stride) // 2, (kernel - stride + 1) // 2
    return nn.Sequential(OrderedDict([("pad", nn.ZeroPad2d((low, high, low, high))), ("cna", block)]))


class _InvertedResidual(nn.Module):
    def __init__(self, channels: tuple[int, int], expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels[0] * expand
        layers = [_conv((channels[0], wide), 1)] if expand != 1 else []
        layers.append(_conv((wide, wide), kernel, stride, groups=wide))
        layers.append(_conv((wide, channels[1]), 1, activation=None))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and channels[0] == channels[1]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        layers = [_conv((3, 32), 3, 2)]
        for expand, kernel, stride, before, after, repeats in _STAGES:
            layers.append(_InvertedResidual((before, after), expand, kernel, stride))
            layers += [_InvertedResidual((after, after), expand, kernel, 1) for _ in range(repeats - 1)]
        layers.append(_conv((_STAGES[-1][4], _LAST), 1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(_LAST, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, num_classes); H and W multiples of 32."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits
