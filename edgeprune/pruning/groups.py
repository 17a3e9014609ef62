"""Channel groups of a model: the only module that imports torch_pruning.

A group is the set of layers that must lose channel k together (DepGraph, arXiv 2301.12900).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgeprune.errors import InternalCheckError, UnscoredError, UnsupportedModelError
from edgeprune.pruning import recurrent, tracing
from edgeprune.pruning.blocks import remove, silence
from edgeprune.pruning.channels import (
    ROOTS,
    Member,
    is_carrier,
    kept_by,
    reads_in_parts,
    require_layers,
    width_of,
    zero,
)
from edgeprune.pruning.proof import describe, halves, proved
from edgeprune.pruning.ties import retie
from edgeprune.pruning.unseen import completed, hint_at
from edgeprune.records import ChannelGroup, GroupList, ResidualBlock, SkippedGroup

Inputs = tuple[Tensor, ...]
# What torch-pruning raises on layers that it takes for others:
UNKNOWN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def find_groups(model: nn.Module, inputs: Inputs, keep: Collection[str] = ()) -> GroupList:
    """Return the groups of `model`; `keep` names layers never cut, as in `kept_by`.

    Every group is proved: one channel, and every second one, is cut from a copy, which must run,
    keep its output shape, and give the output of the masked dense model. Layers that no gradient
    leads to are skipped.

    Raises:
        UnsupportedModelError: the model cannot be traced.
        UsageError: `keep` names no layer.
    """
    layers = dict(model.named_modules())
    require_layers(model, keep)
    found: list[ChannelGroup] = []
    skipped: list[SkippedGroup] = []
    seen: set[str] = set()
    for name, width, members in _trace(model, inputs):
        group = describe(name, width, members, layers)
        touched = (*group.outputs, *group.carriers)
        seen.update(touched)
        reason = kept_by(keep, touched)
        if not reason:
            group, reason = proved(model, inputs, group, cut, mask)
        if reason:
            skipped.append(SkippedGroup(name=name, width=width, reason=reason))
        else:
            found.append(group)
    faults = halves(model, inputs, found, cut, mask)
    skipped += [
        SkippedGroup(name=group.name, width=group.width, reason=faults[group.name])
        for group in found
        if group.name in faults
    ]
    found = [group for group in found if group.name not in faults]
    return completed(model, inputs, found, skipped, seen, keep)


def cut(
    model: nn.Module,
    inputs: Inputs,
    kept: Mapping[str, Sequence[int]],
    removed: Sequence[ResidualBlock] = (),
) -> nn.Module:
    """Return a copy of `model` in which each named group has only its `kept` channels.

    The branches `removed` are taken out; their own groups need no entry in `kept`. Parameters that
    layers share stay shared where both lose the same, frozen ones stay frozen.

    Raises:
        InternalCheckError: a group refuses the cut.
    """
    slim = copy.deepcopy(model).eval()
    layers, graph = dict(slim.named_modules()), _graph(slim, inputs)
    whole = {name for block in removed for name in block.groups}
    for name, channels in kept.items():
        if name in whole:
            continue
        root = layers[name]
        width = width_of(root)
        gone = sorted(set(range(width)) - set(channels))
        if not gone:
            continue
        group = graph.get_pruning_group(root, _function(root), gone)
        if not graph.check_pruning_group(group):
            raise InternalCheckError(
                f"group {name}: cutting {len(gone)} of {width} channels leaves none"
            )
        group.prune()
    remove(slim, removed)
    retie(model, slim)
    tracing.settle(model, slim)
    return slim.eval()


def narrowing(
    model: nn.Module, inputs: Inputs, name: str, kept: Iterable[Sequence[int]]
) -> Iterator[nn.Module]:
    """Yield one copy of `model` with group `name` cut further and further.

    The model is traced once, so this is much cheaper than a `cut` for each width. The same module
    is yielded again and again; what a caller does to its other parts stays.

    Args:
        model: the dense model.
        inputs: example inputs.
        name: the group.
        kept: channels that stay, in the dense numbering, each a subset of the one before.

    Raises:
        InternalCheckError: the sets are not nested.
    """
    slim = copy.deepcopy(model).eval()
    graph = _graph(slim, inputs)
    root = dict(slim.named_modules())[name]
    left = list(range(width_of(root)))
    for channels in kept:
        stay = set(channels)
        if not stay or not stay <= set(left):
            raise InternalCheckError(f"group {name}: the channels to keep are not nested")
        gone = [position for position, channel in enumerate(left) if channel not in stay]
        if gone:
            graph.get_pruning_group(root, _function(root), gone).prune()
            left = [channel for channel in left if channel in stay]
        yield slim.eval()


def mask(
    model: nn.Module,
    inputs: Inputs,
    kept: Mapping[str, Sequence[int]],
    removed: Sequence[ResidualBlock] = (),
) -> nn.Module:
    """Return a copy of `model` of full width that computes what the cut model must compute.

    The weights that consume a removed channel are set to 0 and, so that nothing is left of it,
    those that produce it too. Branches that are `removed` yield 0.
    """
    masked = copy.deepcopy(model).eval()
    layers = dict(masked.named_modules())
    traced = {name: members for name, _, members in _trace(masked, inputs)}
    for name, channels in kept.items():
        keep = set(channels)
        for member in traced[name]:
            gone = [i for k, at in enumerate(member.indices) if k not in keep for i in at]
            zero(layers[member.layer], member.side, gone)
    silence(masked, removed)
    return masked


def roots(model: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Return the names of all groups of the model: the layer that numbers each one's channels."""
    return tuple(name for name, _, _ in _trace(model, inputs))


def widths(model: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Return the width (output channels) of each named layer."""
    layers = dict(model.named_modules())
    return {name: width_of(layers[name]) for name in names}


def members(model: nn.Module, inputs: Inputs) -> dict[str, tuple[Member, ...]]:
    """Return the layers of every group, each carrier (BatchNorm, depthwise, PReLU) once."""
    layers = dict(model.named_modules())
    found: dict[str, tuple[Member, ...]] = {}
    for name, _, traced in _trace(model, inputs):
        single = {m.layer: m for m in traced if is_carrier(layers[m.layer])}
        others = [m for m in dict.fromkeys(traced) if m.layer not in single]
        found[name] = (*others, *single.values())
    return found


def group_scores(
    model: nn.Module, inputs: Inputs, criterion: str, wanted: Iterable[str]
) -> dict[str, Tensor]:
    """Return torch-pruning's score of each channel [width] of the `wanted` groups it can score.

    `taylor` needs the gradients of the loss in `.grad` (arXiv 1906.10771), `l1`, `l2`, `bn_scale`
    (arXiv 1708.06519) and `fpgm` (arXiv 1811.00250) only weights. Scores are summed over the layers
    of a group, not normalised. Depthwise and recurrent layers are not counted, nor the
    inputs of grouped convolutions.

    Raises:
        UnscoredError: torch-pruning fails at a group.
        InternalCheckError: a score is not finite or not one per channel.
    """
    plain: dict[str, Any] = {"group_reduction": "sum", "normalizer": None}
    importance = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1, **plain),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2, **plain),
        "taylor": lambda: tp.importance.GroupTaylorImportance(multivariable=True, **plain),
        "bn_scale": lambda: tp.importance.BNScaleImportance(**plain),
        "fpgm": lambda: tp.importance.FPGMImportance(p=1, **plain),
    }[criterion]()
    names = {module: name for name, module in model.named_modules()}
    chosen, scores = set(wanted), dict[str, Tensor]()
    for group in _all_groups(_graph(model, inputs)):
        root = group[0].dep.target.module
        name = names.get(root)
        if name is None or name not in chosen:
            continue  # torch-pruning may fail at what is never cut
        try:  # torch-pruning 1.6.1 sums over the parts of a layer, or fails to repeat their rows
            score = importance([item for item in group if not _in_parts(item)])
        except UNKNOWN as error:
            why = f"torch-pruning fails at it: {type(error).__name__}: {error}"
            raise UnscoredError(criterion, {name: why}) from error
        if score is None:
            continue
        score = score.detach().clone()
        if score.shape != (width_of(root),) or not bool(torch.isfinite(score).all()):
            raise InternalCheckError(
                f"importance {criterion} of group {name} is not one finite score a channel"
            )
        scores[name] = score
    return scores


def _in_parts(item: Any) -> bool:
    """Whether an item of a group of torch-pruning is the input of a grouped convolution."""
    return item.dep.handler == tp.prune_conv_in_channels and reads_in_parts(item.dep.target.module)


def lamp_of(scores: Tensor) -> Tensor:
    """Return scores [width] over the sum of those not smaller (torch-pruning's LAMP)."""
    normalised: Tensor = tp.importance.LAMPImportance()._normalize(scores.float().clone(), "lamp")
    return normalised


def regulariser(
    model: nn.Module, inputs: Inputs, groups: Sequence[str], kind: str, strength: float
) -> Any:
    """Return torch-pruning's regulariser of `model`, which must not be replaced afterwards.

    It has `regularize(model)`, to be called between backward and the optimiser's step, and for
    `growing` also `update_reg()`. Convolutions and linear layers are regularised, and BatchNorm
    but for `growing`.

    Args:
        model: the model to be trained.
        inputs: example inputs.
        groups: names of the groups to regularise.
        kind: "group_norm", "bn_scale" or "growing".
        strength: of the penalty (for `growing`, at first and added by each `update_reg`).
    """
    norm = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)

    def importance(group: Any) -> Any:
        found = norm(group)
        if found is not None and bool((found == found[0]).all()):
            return torch.full_like(found, torch.nan)  # none is weaker: torch-pruning skips these
        return found

    mode = model.training
    if kind == "growing":
        found = pruner(
            model, inputs, groups, tp.pruner.GrowingRegPruner, importance,
            reg=strength, delta_reg=strength,
        )  # fmt: skip
    else:
        made = {"group_norm": tp.pruner.GroupNormPruner, "bn_scale": tp.pruner.BNScalePruner}
        found = pruner(model, inputs, groups, made[kind], importance, reg=strength)
    model.train(mode)
    return found


def pruner(
    model: nn.Module,
    inputs: Inputs,
    groups: Sequence[str],
    make: Callable[..., Any] = tp.pruner.BasePruner,
    importance: Callable[[Any], Tensor | None] | None = None,
    **settings: Any,
) -> Any:
    """Return a pruner of torch-pruning for `groups` of `model`; the other groups are left alone.

    Args:
        model: it is put into eval mode.
        inputs: example inputs.
        groups: names of the groups that may be cut.
        make: the pruner's class.
        importance: a group of torch-pruning -> score of each channel [width].
        settings: further arguments of the class.
    """
    traced = members(model, inputs)
    wanted = {m.layer for name in groups for m in traced[name] if m.side == "out"}
    layers = model.named_modules()
    ignored = [m for name, m in layers if isinstance(m, ROOTS) and name not in wanted]
    shared: dict[str, Any] = {  # fresh dictionaries: torch-pruning's defaults are shared objects
        name: {} for name in ("in_channel_groups", "out_channel_groups", "num_heads")
    } | {
        "customized_pruners": dict.fromkeys(recurrent.RECURRENT, _RECURRENT),
        "ignored_layers": ignored,
    }
    with tracing.traceable(model):
        return make(model, inputs, importance, **shared, **settings)


class _Recurrent(tp.BasePruningFunc):  # type: ignore[misc]
    """Tells torch-pruning how a recurrent layer is cut."""

    def prune_out_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.Module:
        recurrent.remove(layer, "out", idxs)
        return layer

    def prune_in_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.Module:
        recurrent.remove(layer, "in", idxs)
        return layer

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        return recurrent.width_of(layer, "out")

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        return recurrent.width_of(layer, "in")


_RECURRENT = _Recurrent()


def _graph(model: nn.Module, inputs: Inputs) -> Any:
    """Build the dependency graph; the model is put into eval mode for it."""
    try:
        with tracing.traceable(model):
            return tp.DependencyGraph().build_dependency(
                model.eval(),
                example_inputs=inputs,
                customized_pruners=dict.fromkeys(recurrent.RECURRENT, _RECURRENT),
            )
    except Exception as error:
        first = error.__context__ or error  # torch-pruning tries again and hides the first failure
        if isinstance(first, KeyboardInterrupt):
            raise first from None
        raise UnsupportedModelError(
            f"the model cannot be traced for pruning: {type(first).__name__}: {first}",
            hint_at(first),
        ) from error


def _all_groups(graph: Any) -> list[Any]:
    return list(graph.get_all_groups(ignored_layers=[], root_module_types=list(ROOTS)))


def _trace(model: nn.Module, inputs: Inputs) -> list[tuple[str, int, list[Member]]]:
    """Return (root layer, width, members) of all groups of the traced model."""
    names = {module: name for name, module in model.named_modules()}
    graph = _graph(model, inputs)
    traced = []
    for group in _all_groups(graph):
        root = group[0].dep.target.module
        if root not in names:
            continue  # a bare parameter: torch-pruning gives it a module of its own
        members: list[Member] = []
        for item in group:
            module, handler = item.dep.target.module, item.dep.handler
            if module not in names or not isinstance(module, nn.Module):
                continue
            if graph.is_out_channel_pruning_fn(handler):
                side = "out"
            elif graph.is_in_channel_pruning_fn(handler):
                side = "in"
            else:
                continue
            indices: dict[int, list[int]] = {}
            for at, origin in zip(item.idxs, item.root_idxs, strict=True):
                indices.setdefault(int(origin), []).append(int(at))
            ordered = tuple(tuple(indices.get(k, ())) for k in range(width_of(root)))
            members.append(Member(names[module], side, ordered))
        traced.append((names[root], width_of(root), members))
    return traced


def _function(module: nn.Module) -> Any:
    if isinstance(module, nn.Linear):
        return tp.prune_linear_out_channels
    if isinstance(module, recurrent.RECURRENT):
        return _RECURRENT.prune_out_channels
    if is_carrier(module):
        return tp.prune_depthwise_conv_out_channels
    return tp.prune_conv_out_channels
