"""MobileNetV2 and ResNet-18 at 224 x 224 with random weights: shapes to measure, nothing trained.

cd examples/shapes
edgeprune profile model:mobilenet_v2 --shape 1,3,224,224 --device mobile_cpu
edgeprune profile model:resnet18 --shape 1,3,224,224 --device mobile_cpu
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _normed(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; add the input where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_normed(inputs, hidden, 1), nn.ReLU6()]
        layers += [*_normed(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*layers, *_normed(hidden, outputs, 1))
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return x + found if self.skips else found


class MobileNetV2(nn.Module):
    """Sandler et al., arXiv 1801.04381, table 2, width 1.0."""

    STAGES = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    )  # fmt: skip

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_normed(3, 32, 3, 2), nn.ReLU6()]
        width = 32
        for expansion, channels, count, stride in self.STAGES:
            for index in range(count):
                layers.append(
                    InvertedResidual(width, channels, stride if index == 0 else 1, expansion)
                )
                width = channels
        self.features = nn.Sequential(*layers, *_normed(width, 1280, 1), nn.ReLU6())
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return found


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normed(inputs, outputs, 3, stride), nn.ReLU(), *_normed(outputs, outputs, 3)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_normed(inputs, outputs, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.relu(self.layers(x) + self.shortcut(x))
        return found


class ResNet18(nn.Module):
    """He et al., arXiv 1512.03385, table 1, 18 layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_normed(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        width = 64
        for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [BasicBlock(width, channels, stride), BasicBlock(channels, channels, 1)]
            width = channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return found


def mobilenet_v2() -> nn.Module:
    """Return MobileNetV2 for input [N, 3, 224, 224]; 3.5 M parameters, 301 M MACs."""
    torch.manual_seed(0)
    return MobileNetV2().eval()


def resnet18() -> nn.Module:
    """Return ResNet-18 for input [N, 3, 224, 224]; 11.7 M parameters, 1.81 G MACs."""
    torch.manual_seed(0)
    return ResNet18().eval()
