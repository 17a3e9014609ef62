"""What a traced group is, and the proof that it can be cut."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeprune.pruning.channels import Member, is_carrier
from edgeprune.records import ChannelGroup

Inputs = tuple[Tensor, ...]
Transform = Callable[[nn.Module, Inputs, dict[str, list[int]]], nn.Module]


def describe(
    name: str, width: int, members: list[Member], layers: dict[str, nn.Module]
) -> ChannelGroup:
    """Return the record of a traced group."""

    def listed(wanted: str, *, roots: bool) -> tuple[str, ...]:
        chosen = [
            m.layer
            for m in members
            if (m.side == wanted or not roots) and is_carrier(layers[m.layer]) != roots
        ]
        return tuple(dict.fromkeys(chosen))

    return ChannelGroup(
        name=name,
        width=width,
        outputs=listed("out", roots=True),
        inputs=listed("in", roots=True),
        carriers=listed("", roots=False),
    )


def obstacle(
    model: nn.Module, inputs: Inputs, name: str, width: int, cut: Transform, mask: Transform
) -> str:
    """Return why the group cannot be cut, or "" if cutting one channel works and is exact."""
    if width < 2:
        return "it has a single channel"
    kept = {name: [k for k in range(width) if k != 0]}
    try:
        cut_model, masked_model = cut(model, inputs, kept), mask(model, inputs, kept)
        with torch.inference_mode():
            before, after, masked = (m(*inputs) for m in (model, cut_model, masked_model))
    except Exception as error:  # noqa: BLE001 - whatever breaks the cut is the reason not to cut
        return f"cutting it fails: {type(error).__name__}: {str(error).splitlines()[0]}"
    if after.shape != before.shape:
        return "it is the model's output"
    scale = float(masked.abs().max()) or 1.0
    if float((after - masked).abs().max()) > 1e-4 * scale:
        return "cutting it does not give the output of the masked model"
    return ""
