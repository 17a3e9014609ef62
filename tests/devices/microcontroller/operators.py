"""One small network for each operator, with the shapes that kernels get wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

F = nn.functional


class Call(nn.Module):
    """A function of one tensor as a layer; a convolution before it gives it a scale of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.first, self.function = nn.Conv2d(channels, channels, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x))


class Joined(nn.Module):
    """A function of two branches whose scales differ."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, 1, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.a(x), 3 * self.b(x))


def one(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer)


def grouped(*arguments: int, **options: int) -> nn.Module:
    return one(nn.Conv2d(*arguments, groups=3, **options))


Case = tuple[nn.Module, tuple[int, ...]]


def cases() -> dict[str, Case]:
    """Return name -> (network, input shape), with seeded weights."""
    torch.manual_seed(0)
    image = (1, 5, 9, 7)
    return {
        "conv_1x1": (one(nn.Conv2d(5, 3, 1)), image),
        "conv_1x1_stride": (one(nn.Conv2d(5, 9, 1, 2)), image),
        "conv_3x3_valid": (one(nn.Conv2d(5, 6, 3)), image),
        "conv_3x3_stride_padding": (one(nn.Conv2d(5, 7, 3, (2, 1), (1, 0))), image),
        "conv_5x2": (one(nn.Conv2d(5, 4, (5, 2), (1, 3), (2, 1))), image),
        "conv_dilation": (one(nn.Conv2d(5, 4, 3, 1, (2, 3), dilation=(2, 3))), image),
        "conv_whole_image": (one(nn.Conv2d(5, 2, (9, 7))), image),
        "conv_row": (one(nn.Conv2d(4, 8, (1, 3))), (1, 4, 1, 10)),
        "conv_one_channel": (one(nn.Conv2d(1, 1, 3, 1, 1)), (1, 1, 6, 5)),
        "conv_uneven_padding": (
            nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(5, 4, 3, 2)),
            image,
        ),
        "conv_1d": (one(nn.Conv1d(3, 6, 4, 3, 2)), (1, 3, 17)),
        "depthwise_3x3": (one(nn.Conv2d(5, 5, 3, 1, 1, groups=5)), image),
        "depthwise_3x3_no_padding": (one(nn.Conv2d(8, 8, 3, 1, 0, groups=8)), (1, 8, 6, 6)),
        "depthwise_stride": (one(nn.Conv2d(6, 6, 3, (2, 3), 1, groups=6)), (1, 6, 9, 8)),
        "depthwise_5x1": (one(nn.Conv2d(7, 7, (5, 1), 1, (2, 0), groups=7)), (1, 7, 8, 4)),
        "depthwise_dilation": (one(nn.Conv2d(4, 4, 3, 1, 2, dilation=2, groups=4)), (1, 4, 7, 7)),
        "depthwise_many_channels": (
            one(nn.Conv2d(130, 130, 3, 1, 1, groups=130)),
            (1, 130, 3, 3),
        ),
        "depthwise_multiplier": (one(nn.Conv2d(3, 6, 3, 1, 1, groups=3)), (1, 3, 5, 5)),
        "fully_connected": (one(nn.Linear(13, 6)), (1, 13)),
        "fully_connected_no_bias": (one(nn.Linear(16, 5, bias=False)), (1, 16)),
        "fully_connected_one_output": (one(nn.Linear(3, 1)), (1, 3)),
        "max_pool": (Call(nn.MaxPool2d((3, 2), (2, 1), (1, 0)), 5), image),
        "max_pool_ceil": (Call(nn.MaxPool2d(2, 2, ceil_mode=True), 5), image),
        "average_pool": (Call(nn.AvgPool2d((2, 3), (1, 2)), 5), image),
        "average_pool_padding_counts": (Call(nn.AvgPool2d(3, 2, 1), 5), image),
        "average_pool_padding_left_out": (
            Call(nn.AvgPool2d(3, 1, 1, count_include_pad=False), 5),
            image,
        ),
        "global_average_pool": (Call(nn.AdaptiveAvgPool2d(1), 5), image),
        "add": (Joined(torch.add, 5), image),
        "concat_channels": (Joined(lambda a, b: torch.cat([a, b], 1), 5), image),
        "concat_rows": (Joined(lambda a, b: torch.cat([a, b], 2), 5), image),
        "reshape": (
            nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(18, 4)),
            (1, 2, 2, 3),
        ),
        "relu": (Call(lambda x: F.relu(x + x), 5), image),
        "relu6": (Call(lambda x: F.relu6(4 * (x + x)), 5), image),
        "times_a_number": (Call(lambda x: -1.5 * x, 5), image),
        "plus_a_number": (Call(lambda x: 2 + torch.tanh(x), 5), image),
        "hard_swish": (Call(F.hardswish, 5), image),
        "sigmoid": (Call(torch.sigmoid, 5), image),
        "softmax": (nn.Sequential(nn.Linear(9, 11), nn.Softmax(1)), (1, 9)),
        "softmax_of_pixels": (Call(nn.Softmax(1), 5), (1, 5, 3, 2)),
    }
