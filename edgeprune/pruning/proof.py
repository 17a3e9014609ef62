"""What a traced group is, and the proof that it can be cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgeprune.pruning.channels import Member, is_carrier
from edgeprune.records import ChannelGroup, SkippedGroup

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

    inputs = listed("in", roots=True)
    read: dict[str, set[int]] = {name: set() for name in inputs}
    for member in members:  # a layer that is called again is a member again
        if member.side == "in" and member.layer in read:
            read[member.layer] |= {entry for at in member.indices for entry in at}
    return ChannelGroup(
        name=name,
        width=width,
        outputs=listed("out", roots=True),
        inputs=inputs,
        carriers=listed("", roots=False),
        entries={layer: len(found) for layer, found in read.items() if len(found) != width},
    )


def proved(
    model: nn.Module, inputs: Inputs, group: ChannelGroup, cut: Transform, mask: Transform
) -> tuple[ChannelGroup, str]:
    """Return the group as it can be cut, and why it cannot be cut, or "".

    First one channel is cut. Where that fails, channels may have to go in bundles: the divisors
    that are tried are the integers that the group's layers and the modules around them hold
    (groups of a convolution, heads of attention, channels of a head).
    """
    if group.width < 2:
        return group, "it has a single channel"
    reason = _obstacle(model, inputs, group, (0,), cut, mask)
    if not reason:
        return group, ""
    for divisor in _divisors(model, group):
        for contiguous in (False, True):
            tied = group.model_copy(update={"divisor": divisor, "contiguous": contiguous})
            bundles = tied.bundles()
            half = [channel for bundle in bundles[::2] for channel in bundle]
            if all(
                not _obstacle(model, inputs, tied, gone, cut, mask) for gone in (bundles[-1], half)
            ):
                return tied, ""
    return group, reason


def halves(
    model: nn.Module,
    inputs: Inputs,
    groups: Sequence[ChannelGroup],
    cut: Transform,
    mask: Transform,
) -> dict[str, str]:
    """Return the groups that can lose one channel but not every second one: name -> why not.

    All groups are cut at once; only where that fails, each alone.
    """
    half = {g.name: [k for bundle in g.bundles()[1::2] for k in bundle] for g in groups}
    if not half or not _fault(model, inputs, half, cut, mask):
        return {}
    faults = {n: _fault(model, inputs, {n: kept}, cut, mask) for n, kept in half.items()}
    return {name: fault for name, fault in faults.items() if fault}


def _divisors(model: nn.Module, group: ChannelGroup) -> list[int]:
    """Return integers around the group's layers that divide its width, ascending."""
    layers = dict(model.named_modules())
    around = set()
    for name in (*group.outputs, *group.inputs, *group.carriers):
        around |= {name, name.rpartition(".")[0]}
    found = {
        value
        for name in around
        for value in vars(layers[name]).values()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    return sorted(d for d in found if d > 1 and 3 * d <= group.width and group.width % d == 0)


def _obstacle(
    model: nn.Module,
    inputs: Inputs,
    group: ChannelGroup,
    gone: Sequence[int],
    cut: Transform,
    mask: Transform,
) -> str:
    """Return why cutting the channels `gone` fails, or "" if it works and is exact."""
    kept = {group.name: [k for k in range(group.width) if k not in set(gone)]}
    return _fault(model, inputs, kept, cut, mask)


def _fault(
    model: nn.Module, inputs: Inputs, kept: dict[str, list[int]], cut: Transform, mask: Transform
) -> str:
    try:
        cut_model, masked_model = cut(model, inputs, kept), mask(model, inputs, kept)
        with torch.inference_mode():
            before, after, masked = (m(*inputs) for m in (model, cut_model, masked_model))
    except Exception as error:  # noqa: BLE001 - whatever breaks the cut is the reason not to cut
        said = str(error).strip().splitlines() or ["no message"]  # a bare assert says nothing
        return f"{SkippedGroup.CUTTING} fails: {type(error).__name__}: {said[0]}"
    if after.shape != before.shape:
        return SkippedGroup.OUTPUT
    scale = float(masked.abs().max()) or 1.0
    if float((after - masked).abs().max()) > 1e-4 * scale:
        return f"{SkippedGroup.CUTTING} does not give the output of the masked model"
    return ""
