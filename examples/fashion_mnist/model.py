"""A residual network for 28 x 28 grey images, as a phone-sized stand-in for a real classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a skip connection (He et al., arXiv 1512.03385).

    Args:
        in_channels: channels of the input, shape [N, in_channels, H, W].
        out_channels: channels of the output, shape [N, out_channels, H / stride, W / stride].
        stride: stride of the first convolution and of the projection.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu1(self.bn1(self.conv1(x)))
        hidden = self.bn2(self.conv2(hidden))
        return self.relu2(hidden + self.shortcut(x))


class FashionResNet(nn.Module):
    """A stem, three stages of residual blocks and a linear classifier.

    Args:
        widths: channels of the three stages.
        blocks: residual blocks in each stage.
        classes: number of output classes.
        stem_stride: stride of the stem; 2 quarters what everything behind it costs.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 64, 128),
        blocks: tuple[int, int, int] = (1, 1, 1),
        classes: int = 10,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 3, stem_stride, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(widths[0])
        self.stem_relu = nn.ReLU()
        stages: list[nn.Module] = []
        channels = widths[0]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layers: list[nn.Module] = []
            for block in range(count):
                stride = 2 if index > 0 and block == 0 else 1
                layers.append(ResidualBlock(channels, width, stride))
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_relu(self.stem_bn(self.stem(x)))
        x = self.flatten(self.pool(self.stages(x)))
        return self.classifier(x)  # type: ignore[no-any-return]


def build(**overrides: Any) -> nn.Module:
    """Return the network in eval mode with untrained weights; the job adds `dense.safetensors`."""
    torch.manual_seed(0)
    return FashionResNet(**overrides).eval()


def build_small(**overrides: Any) -> nn.Module:
    """Return the network in a microcontroller's size; the job adds `small.safetensors`."""
    return build(**{"widths": (24, 48, 96), "stem_stride": 2, **overrides})


def build_narrow(width: float) -> nn.Module:
    """Return the network with all its widths times `width`: what pruning has to beat."""
    return build(widths=tuple(max(1, round(width * w)) for w in (32, 64, 128)))
