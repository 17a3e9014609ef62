"""Channels that are zero in every layer that produces them, removed physically, with proof."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgeprune.pruning.channels import CONVOLUTIONS, Member, is_carrier, rows
from edgeprune.pruning.groups import cut, find_groups, members
from edgeprune.pruning.recurrent import RECURRENT
from edgeprune.pruning.shrink import TOLERANCE
from edgeprune.records import ChannelGroup, RemovedChannels, ZeroChannels

Inputs = tuple[Tensor, ...]


class Smaller(NamedTuple):
    """The model without its zero channels, what was removed, and what had to stay."""

    model: nn.Module
    removed: tuple[RemovedChannels, ...]
    left: tuple[ZeroChannels, ...]


def remove_zero_channels(
    model: nn.Module, inputs: Inputs, samples: Sequence[Inputs], keep: Collection[str] = ()
) -> Smaller:
    """Return `model` without the channels whose weights are zero in every producer.

    Such a channel still passes a constant on (a bias, the shift of a BatchNorm). A constant other
    than 0 goes into the bias of the layers that read it, which is exact for linear layers and for
    convolutions without zero padding; otherwise the channel stays and is reported. After each group
    the output must equal that of `model` on `samples`, or the group stays as it was.

    Args:
        model: masks made permanent.
        inputs: example inputs.
        samples: inputs on which constants are read and the result is proved.
        keep: layers, or prefixes of their names, that are never cut.
    """
    removed: list[RemovedChannels] = []
    left: list[ZeroChannels] = []
    slim = model
    for group in find_groups(model, inputs, keep).groups:
        layers, traced = dict(slim.named_modules()), members(slim, inputs)[group.name]
        dead = _zero_in_all(layers, traced, group.width)
        if not dead:
            continue
        constants = _constants(slim, layers, traced, samples)
        gone: list[int] = []
        reasons: dict[str, int] = {}
        for k in dead:
            reason = _obstacle(layers, traced, constants, k)
            if reason:
                reasons[reason] = reasons.get(reason, 0) + 1
            else:
                gone.append(k)
        single, gone = len(gone), _in_bundles(group, gone)
        if len(gone) < single:
            reasons[f"channels go in bundles of {group.divisor}"] = single - len(gone)
        if (spare := len(gone) - (group.width - group.narrowest)) > 0:
            reasons[f"the group keeps {_counted(group.narrowest)} at least"] = spare
            gone = gone[spare:]
        gone.sort()
        left += [ZeroChannels(group=group.name, channels=n, reason=r) for r, n in reasons.items()]
        if not gone:
            continue
        kept = [k for k in range(group.width) if k not in set(gone)]
        folded, count = _fold(slim, traced, constants, gone)
        smaller = cut(folded, inputs, {group.name: kept})
        if _differs(smaller, model, (inputs, *samples)):
            reason = "without them the output would differ"
            left.append(ZeroChannels(group=group.name, channels=len(gone), reason=reason))
            continue
        slim = smaller
        removed.append(
            RemovedChannels(group=group.name, before=group.width, kept=tuple(kept), folded=count)
        )
    return Smaller(slim, tuple(removed), tuple(left))


def _in_bundles(group: ChannelGroup, channels: Sequence[int]) -> list[int]:
    """Return the `channels` that form whole bundles, bundle by bundle."""
    found = set(channels)
    return [k for bundle in group.bundles() if found.issuperset(bundle) for k in bundle]


def _counted(channels: int) -> str:
    return "one channel" if channels == 1 else f"{channels} channels"


def replay(model: nn.Module, inputs: Inputs, removed: Sequence[RemovedChannels]) -> nn.Module:
    """Return a copy of `model` cut alike; its weights are to be loaded, biases included."""
    slim = copy.deepcopy(model)
    for one in removed:
        if one.folded:
            layers = dict(slim.named_modules())
            for _, layer in _readers(layers, members(slim, inputs)[one.group]):
                _bias_of(layer)
        slim = cut(slim, inputs, {one.group: one.kept})
    return slim


def _zero_in_all(layers: dict[str, nn.Module], traced: Sequence[Member], width: int) -> list[int]:
    """Return the channels whose weights are zero in all layers that produce them."""
    dead = set(range(width))
    for member in traced:
        layer = layers[member.layer]
        if member.side != "out" or is_carrier(layer):
            continue
        if isinstance(layer, RECURRENT):
            return []
        values = rows(layer, "out", lambda key, layer=layer: getattr(layer, key, None))  # type: ignore[misc]
        if values is None:
            return []
        zero = (values == 0).all(1)
        dead = {k for k in dead if all(bool(zero[i]) for i in member.indices[k])}
    return sorted(dead)


def _constants(
    model: nn.Module,
    layers: dict[str, nn.Module],
    traced: Sequence[Member],
    samples: Sequence[Inputs],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return consumer -> (least, largest) of every value that enters it, over all positions."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, axis: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            flat = args[0].detach().movedim(axis, 0).flatten(1)
            low, high = flat.amin(1), flat.amax(1)
            if name in seen:
                low, high = torch.minimum(low, seen[name][0]), torch.maximum(high, seen[name][1])
            seen[name] = low, high

        return hook

    handles = []
    for member in traced:
        layer = layers[member.layer]
        if member.side == "in" and not is_carrier(layer) and not isinstance(layer, nn.Embedding):
            axis = -1 if isinstance(layer, (nn.Linear, *RECURRENT)) else 1
            handles.append(layer.register_forward_pre_hook(watch(member.layer, axis)))
    try:
        with torch.inference_mode():
            for sample in samples:
                model.eval()(*sample)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _obstacle(
    layers: dict[str, nn.Module],
    traced: Sequence[Member],
    constants: dict[str, tuple[Tensor, Tensor]],
    channel: int,
) -> str:
    """Return why a zero channel has to stay, or ""."""
    for member in traced:
        layer = layers[member.layer]
        if member.side != "in" or is_carrier(layer):
            continue
        if member.layer not in constants:
            return f"{member.layer} reads them and did not run"
        low, high = (values[list(member.indices[channel])] for values in constants[member.layer])
        if not torch.equal(low, high):
            return f"what {member.layer} reads of them is not constant"
        if not bool((low == 0).all()) and not _folds(layer):
            return f"they pass a constant to {member.layer}, which no bias can stand for"
    return ""


def _folds(layer: nn.Module) -> bool:
    """Whether a constant input channel equals a constant added to the output."""
    if isinstance(layer, nn.Linear):
        return True
    if not isinstance(layer, CONVOLUTIONS) or layer.groups > 1:
        return False
    padding = layer.padding
    none = padding == "valid" if isinstance(padding, str) else not any(padding)
    return none or layer.padding_mode != "zeros"


def _fold(
    model: nn.Module,
    traced: Sequence[Member],
    constants: dict[str, tuple[Tensor, Tensor]],
    gone: Sequence[int],
) -> tuple[nn.Module, int]:
    """Return a copy with the constants of `gone` in the readers' biases; count those not 0."""
    folded = copy.deepcopy(model)
    readers = _readers(dict(folded.named_modules()), traced)
    counted: set[int] = set()
    for member, layer in readers:
        for k in gone:
            at = list(member.indices[k])
            values = constants[member.layer][0][at]
            if not bool((values == 0).all()):
                counted.add(k)
                weight: Any = layer.weight
                with torch.no_grad():
                    share = weight[:, at].flatten(2).sum(2) if weight.ndim > 2 else weight[:, at]
                    _bias_of(layer).add_(share.double() @ values.double())
    if counted:
        for _, layer in readers:
            _bias_of(layer)  # a replay gives all of them one
    return folded, len(counted)


def _readers(
    layers: dict[str, nn.Module], traced: Sequence[Member]
) -> list[tuple[Member, nn.Module]]:
    """Return the consumers of a group whose bias can take up a constant."""
    found = [(member, layers[member.layer]) for member in traced if member.side == "in"]
    return [(member, layer) for member, layer in found if _folds(layer) and not is_carrier(layer)]


def _bias_of(layer: nn.Module) -> Tensor:
    """Return the bias of a layer, which gets one of zeros if it has none."""
    bias: Any = layer.bias
    if bias is None:
        weight: Any = layer.weight
        zeros = torch.zeros(len(weight), dtype=weight.dtype)
        layer.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)
    found: Any = layer.bias
    assert isinstance(found, Tensor)
    return found


def _differs(slim: nn.Module, model: nn.Module, samples: Sequence[Inputs]) -> bool:
    with torch.inference_mode():
        for sample in samples:
            got, wanted = slim(*sample), model(*sample)
            scale = max(float(wanted.abs().max()), 1e-6)
            if got.shape != wanted.shape or not bool(
                ((got - wanted).abs() <= TOLERANCE * scale).all()
            ):
                return True
    return False
