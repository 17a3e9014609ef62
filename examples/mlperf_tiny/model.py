"""The four network shapes of MLPerf Tiny (Banbury et al., arXiv 2106.07597), untrained.

Weights are random but seeded, and BatchNorm holds the statistics of random inputs, so that every
layer sees values of ordinary size: enough to check code and to count instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


def _convolution(
    inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (sizes[0] // 2, (sizes[1] - 1) // 2)
    return [
        nn.Conv2d(inputs, outputs, sizes, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a depthwise 3 x 3 and a pointwise convolution, [N, C, H, W] -> [N, C', H', W']."""
    return nn.Sequential(
        *_convolution(inputs, inputs, 3, stride, groups=inputs),
        *_convolution(inputs, outputs, 1),
    )


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a skip connection, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, 3, stride), *_convolution(outputs, outputs, 3)[:2]
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride != 1 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))  # type: ignore[no-any-return]


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def resnet8() -> nn.Module:
    """Image classification: [1, 3, 32, 32] -> [1, 10], 12.5 M MACs."""
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    return nn.Sequential(*_convolution(3, 16, 3), *blocks, *_head(64, 10))


def ds_cnn() -> nn.Module:
    """Keyword spotting: [1, 1, 49, 10] -> [1, 12], 2.7 M MACs."""
    first = _convolution(1, 64, (10, 4), 2)
    return nn.Sequential(*first, *[_separable(64, 64) for _ in range(4)], *_head(64, 12))


def mobilenet_v1() -> nn.Module:
    """Visual wake words, width 0.25: [1, 3, 96, 96] -> [1, 2], 7.5 M MACs."""
    pairs = [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]
    pairs += [(128, 128, 1)] * 5 + [(128, 256, 2), (256, 256, 1)]
    padding = nn.ZeroPad2d((0, 1, 0, 1))  # as TensorFlow pads before a stride of 2
    first = [nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    return nn.Sequential(padding, *first, *[_separable(*pair) for pair in pairs], *_head(256, 2))


def autoencoder() -> nn.Module:
    """Anomaly detection: [1, 640] -> [1, 640], 0.27 M MACs."""
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-2])


BUILDERS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "resnet8": (resnet8, (1, 3, 32, 32)),
    "ds_cnn": (ds_cnn, (1, 1, 49, 10)),
    "mobilenet_v1": (mobilenet_v1, (1, 3, 96, 96)),
    "autoencoder": (autoencoder, (1, 640)),
}


def build(name: str = "resnet8", seed: int = 0) -> nn.Module:
    """Return the network `name` in eval mode, the same for the same seed."""
    builder, shape = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builder()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.momentum = None  # the plain average of what it sees
                nn.init.ones_(layer.bias)  # deep random networks without it are chaotic
        with torch.no_grad():
            model(torch.randn(16, *shape[1:]))
    return model.eval()
