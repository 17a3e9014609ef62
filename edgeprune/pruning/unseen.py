"""Layers that run, and that torch-pruning does not see: it follows gradients from the output."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from edgeprune.pruning.channels import ROOTS, kept_by, width_of
from edgeprune.pruning.recurrent import RECURRENT
from edgeprune.pruning.tracing import behind, differentiable
from edgeprune.records import ChannelGroup, GroupList, SkippedGroup

Inputs = tuple[Tensor, ...]
INSTEAD = "to have it cut, remove that (requires_grad_(False) freezes parameters as well)"
NO_GRADIENT = (
    "its output carries no gradient: forward runs it under torch.no_grad() or "
    "torch.inference_mode(), detaches it, or checkpoints it with use_reentrant=True; "
    f"{INSTEAD}"
)
DETACHED = (
    "no gradient leads to it from the model's output: forward detaches what comes behind it, runs "
    f"that under torch.no_grad(), or takes a step without a gradient, such as argmax; {INSTEAD}"
)
STATES = (
    "recurrent layers are not traced through packed sequences and initial states: those that read "
    "packed sequences stay whole, and so does what gives either; padded tensors can be traced"
)
UNTRACED = "gradients lead to it, and the trace for groups does not"
REASONS = (NO_GRADIENT, DETACHED, STATES, UNTRACED)


def unseen(model: nn.Module, inputs: Inputs, seen: Collection[str]) -> dict[str, str]:
    """Return the layers with channels that a trace does not lead to: name -> why.

    Layers that do not run, or whose output the model's does not depend on, are not among them.

    Args:
        model: in eval mode.
        inputs: that it runs on.
        seen: layers that the trace led to.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ROOTS) and next(module.parameters(), None) is not None
    }
    made: dict[str, list[Any]] = {name: [] for name in layers}  # nodes of its calls, or None
    states = _States()
    with contextlib.ExitStack() as stack:
        stack.enter_context(differentiable(model))
        for name, layer in layers.items():
            stack.enter_context(
                layer.register_forward_hook(_noting(name, made[name], states), with_kwargs=True)
            )
        outputs = _floats(model(*inputs))
        reached = behind(out.grad_fn for out in outputs if out.grad_fn is not None)
        given = behind(node for node in states.nodes if node is not None)
    found: dict[str, str] = {}
    for name, nodes in made.items():
        if nodes and reached.isdisjoint(nodes):
            found[name] = DETACHED if any(nodes) else NO_GRADIENT
        elif nodes and name not in seen:
            stated = name in states.packed or not given.isdisjoint(nodes)
            found[name] = STATES if stated else UNTRACED
    return {name: why for name, why in found.items() if _matters(model, inputs, layers[name])}


def completed(
    model: nn.Module,
    inputs: Inputs,
    groups: Sequence[ChannelGroup],
    skipped: Sequence[SkippedGroup],
    seen: Collection[str],
    keep: Collection[str],
) -> GroupList:
    """Return all groups in the order of layers; layers that the trace does not lead to are skipped.

    torch-pruning takes one layer without a gradient for the model's output, and cuts it alone: how
    that fails is not the reason, unless it is the output.

    Args:
        model: in eval mode.
        inputs: that it runs on.
        groups: the traced ones that can be cut.
        skipped: the traced ones that cannot.
        seen: layers that produce the channels of either.
        keep: layers, or prefixes of their names, that are never cut, as in `kept_by`.
    """
    layers, reasons = dict(model.named_modules()), unseen(model, inputs, seen)
    order = {name: place for place, name in enumerate(layers)}
    found = [
        one.model_copy(update={"reason": reasons[one.name]})
        if one.name in reasons and one.reason.startswith(SkippedGroup.CUTTING)
        else one
        for one in skipped
    ]
    found += [
        SkippedGroup(
            name=name, width=width_of(layers[name]), reason=kept_by(keep, (name,)) or reason
        )
        for name, reason in reasons.items()
        if name not in seen
    ]
    return GroupList(
        groups=tuple(sorted(groups, key=lambda group: order[group.name])),
        skipped=tuple(sorted(found, key=lambda group: order[group.name])),
    )


def told(skipped: Sequence[SkippedGroup]) -> list[str]:
    """Return one line for each reason: the first few layers that it holds for, and itself."""
    found = SkippedGroup.by_reason(skipped)
    return [f"{names}: {reason}" for reason, names in found.items()]


def hint_at(error: BaseException) -> str:
    """Return what to do about an `error` of tracing."""
    if "inference tensor" in str(error).lower():
        return (
            "forward runs layers under torch.inference_mode(): freeze their parameters with "
            "requires_grad_(False) instead"
        )
    return "typical causes: control flow that depends on values, modules that are never called"


@dataclass
class _States:
    """What `STATES` tells of: who gives states and packed sequences, and who reads the latter."""

    nodes: list[Any] = field(default_factory=list)
    packed: set[str] = field(default_factory=set)


def _noting(name: str, nodes: list[Any], states: _States) -> Any:
    """Return a hook that notes the nodes of a layer's outputs, and of states given to it."""

    def note(layer: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        nodes.extend(tensor.grad_fn for tensor in _floats(output))
        if isinstance(layer, RECURRENT):
            given = (*inputs, *named.values())
            packed = [one for one in given if isinstance(one, PackedSequence)]
            states.nodes.extend(one.grad_fn for one in _floats([*given[1:], packed]))
            if packed:
                states.packed.add(name)

    return note


def _matters(model: nn.Module, inputs: Inputs, layer: nn.Module) -> bool:
    """Whether the model's output depends on that of `layer`: it is another one beside noise."""
    drawn = torch.Generator().manual_seed(0)

    def disturb(_: nn.Module, __: Any, output: Any) -> Any:
        return pytree.tree_map(disturbed, output)

    def disturbed(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        noise = torch.randn(value.shape, generator=drawn, dtype=value.dtype)
        return value + noise * (1 + value.abs().max())

    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            before = list(_floats(model(*inputs)))
            torch.manual_seed(0)
            with layer.register_forward_hook(disturb):
                after = list(_floats(model(*inputs)))
    except Exception:  # noqa: BLE001 - what breaks by other values depends on them
        return True
    return len(before) != len(after) or not all(map(torch.equal, before, after))


def _floats(output: Any) -> Iterator[Tensor]:
    leaves = pytree.tree_leaves(output)
    return (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())
