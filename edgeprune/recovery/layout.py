"""Memory layout of tensors on this machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

FEWEST = 8  # input channels that a strided 1 x 1 convolution needs to train channels last


def trains_channels_last(model: nn.Module) -> bool:
    """Whether `model` can be trained channels last.

    The gradient of a strided 1 x 1 convolution of fewer than 8 input channels writes past its
    memory in that layout and ends the process (torch 2.13, oneDNN on AVX2).
    """
    return not any(
        isinstance(module, nn.Conv2d)
        and set(module.kernel_size) == {1}
        and max(map(int, module.stride)) > 1
        and module.in_channels < FEWEST * module.groups
        for module in model.modules()
    )


def training_layout(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what brings the inputs of `model` into the layout in which it trains fastest."""
    return channels_last if trains_channels_last(model) else Tensor.contiguous


def fast_layout(model: nn.Module) -> nn.Module:
    """Keep convolution weights channels last, in place: they train about a quarter faster so.

    The weights of a model that cannot be trained so become contiguous.
    """
    layout = training_layout(model)
    for parameter in model.parameters():
        parameter.data = layout(parameter.data)
    return model


def channels_last(tensor: Tensor) -> Tensor:
    """Return `tensor` channels last in memory if it has four axes, else as it is."""
    if tensor.ndim != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)
