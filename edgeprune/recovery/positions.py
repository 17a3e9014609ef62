"""What a layer multiplies its weights by, position by position, and what comes out there.

A convolution's output at one place is the product of its weights with one patch of its input; a
linear layer's with the features there. Positions are numbered sample by sample, and within a sample
row by row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 40  # positions for each weight of one output, at most
Positions = Tensor | None  # their numbers; None stands for all


class Drawing:
    """Draws the positions of each batch that a layer's equations are made of: 40 an unknown.

    Args:
        layer: the layer.
        batches: how many there are.
    """

    def __init__(self, layer: nn.Module, batches: int) -> None:
        weight: Any = layer.weight
        self.most = ROWS * weight[0].numel() // batches + 1
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, positions: int) -> Positions:
        """Return the numbers of those drawn of a batch's positions."""
        if positions <= self.most:
            return None
        return torch.randperm(positions, generator=self.generator)[: self.most]


def patches(layer: nn.Module, x: Tensor, chosen: Positions = None) -> Tensor:
    """Return [positions, weights of one output]: what each output of the layer is a product of.

    Args:
        layer: a convolution without groups, of one or two dimensions, or a linear layer.
        x: its input; [samples, channels, ...] for convolutions, [..., features] for linear layers.
        chosen: the positions.
    """
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        rows = x.reshape(-1, x.shape[-1])
        return rows if chosen is None else rows[chosen]
    one = isinstance(layer, nn.Conv1d)

    def both(value: Any, missing: int) -> tuple[int, int]:
        return (missing, *value) if one else value

    (kh, kw), (dh, dw) = both(layer.kernel_size, 1), both(layer.dilation, 1)
    (ph, pw), (sh, sw) = both(layer.padding, 0), both(layer.stride, 1)
    padded = nn.functional.pad(x[:, :, None] if one else x, (pw, pw, ph, ph))
    n, c, h, w = padded.shape
    rows_out, columns_out = (h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1
    sample, channel, row, column = padded.stride()
    windows = padded.as_strided(
        (n, rows_out, columns_out, c, kh, kw),
        (sample, row * sh, column * sw, channel, row * dh, column * dw),
    )
    if chosen is None:
        return windows.reshape(n * rows_out * columns_out, -1)
    place = chosen % (rows_out * columns_out)
    at = chosen // (rows_out * columns_out), place // columns_out, place % columns_out
    return windows[at].flatten(1)


def by_position(
    output: Tensor, layer: nn.Module, kept: list[int] | None = None, chosen: Positions = None
) -> Tensor:
    """Return [positions, channels] of a layer's output.

    Args:
        output: of the layer.
        layer: as for `patches`.
        kept: channels, None for all.
        chosen: the positions.
    """
    if not isinstance(layer, nn.Conv1d | nn.Conv2d):
        rows = output.reshape(-1, output.shape[-1])
        rows = rows if chosen is None else rows[chosen]
    elif chosen is None:
        rows = output.flatten(2).transpose(1, 2).reshape(-1, output.shape[1])
    else:
        flat = output.flatten(2)
        rows = flat[chosen // flat.shape[2], :, chosen % flat.shape[2]]
    return rows if kept is None else rows[:, kept]


def count(output: Tensor, layer: nn.Module) -> int:
    """Return the number of positions in an output of the layer."""
    channels = 1 if isinstance(layer, nn.Conv1d | nn.Conv2d) else -1
    return output.numel() // output.shape[channels]
