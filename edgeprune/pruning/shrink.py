"""Physical removal of the channels that a plan gives up, with proof."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeprune.errors import InternalCheckError
from edgeprune.pruning import groups
from edgeprune.pruning.ties import retie, separate
from edgeprune.records import WidthPlan

TOLERANCE = 1e-4  # of the largest output: float32 sums in another order, over a few dozen layers


def shrink(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    plan: WidthPlan,
    samples: Sequence[tuple[Tensor, ...]] = (),
) -> nn.Module:
    """Return a copy of `model` with the widths of `plan`, and without the branches it removes.

    Requires: every group of the plan exists in the model with the plan's width before.
    Ensures: widths as planned; the forward pass runs and keeps its shape; a second replay gives
    the same weights; the output equals that of the masked dense model, on `inputs` and `samples`.

    Raises:
        InternalCheckError: one of these does not hold; names it.
    """
    kept = {name: group.kept for name, group in plan.groups.items()}
    _require(model, inputs, plan)
    slim = groups.cut(model, inputs, kept, plan.removed)
    _ensure_widths(slim, plan)
    replay = groups.cut(model, inputs, kept, plan.removed)
    _ensure_same(slim, replay)
    masked = groups.mask(model, inputs, kept, plan.removed)
    for sample in (inputs, *samples):
        _ensure_output(slim, masked, sample)
    return slim


def rebuild(
    model: nn.Module, inputs: tuple[Tensor, ...], plan: WidthPlan, state: dict[str, Tensor]
) -> nn.Module:
    """Return the slim model with the weights in `state`, by replaying `plan` on the dense model."""
    kept = {name: group.kept for name, group in plan.groups.items()}
    slim = groups.cut(model, inputs, kept, plan.removed)
    separate(slim)  # the state may hold two where the cut leaves one
    slim.load_state_dict(state)
    retie(model, slim)
    return slim.eval()


def _require(model: nn.Module, inputs: tuple[Tensor, ...], plan: WidthPlan) -> None:
    roots = groups.roots(model, inputs)
    missing = [name for name in plan.groups if name not in roots]
    if missing:
        raise InternalCheckError(
            f"the plan names groups that the model lacks: {', '.join(missing)}"
        )
    gone = {name for block in plan.removed for name in block.groups}
    for name, width in groups.widths(model, tuple(plan.groups)).items():
        group = plan.groups[name]
        if width != group.before:
            raise InternalCheckError(
                f"plan for {name}: made for {group.before} channels, the model has {width}"
            )
        kept = group.kept
        if name in gone:
            if kept or group.after:
                raise InternalCheckError(
                    f"plan for {name}: its branch is removed, it keeps channels"
                )
            continue
        if len(kept) != group.after or len(set(kept)) != len(kept) or not group.after:
            raise InternalCheckError(
                f"plan for {name}: {len(kept)} channels kept, width {group.after}"
            )
        if min(kept) < 0 or max(kept) >= width:
            raise InternalCheckError(f"plan for {name}: keeps a channel outside 0..{width - 1}")


def _ensure_widths(slim: nn.Module, plan: WidthPlan) -> None:
    # The layer that names a group may lie in a removed branch, while others of the group stay.
    gone = {layer for block in plan.removed for layer in block.layers}
    left = tuple(n for n, group in plan.groups.items() if group.after and n not in gone)
    for name, width in groups.widths(slim, left).items():
        if width != plan.groups[name].after:
            raise InternalCheckError(
                f"after shrinking, {name} has {width} channels, "
                f"the plan says {plan.groups[name].after}"
            )


def _ensure_same(slim: nn.Module, replay: nn.Module) -> None:
    first, second = slim.state_dict(), replay.state_dict()
    if first.keys() != second.keys() or any(
        not torch.equal(first[name], second[name]) for name in first
    ):
        raise InternalCheckError("replaying the plan on the dense model gives another model")


def _ensure_output(slim: nn.Module, masked: nn.Module, sample: tuple[Tensor, ...]) -> None:
    with torch.inference_mode():
        got, wanted = slim(*sample), masked(*sample)
    if got.shape != wanted.shape:
        raise InternalCheckError(
            f"after shrinking, the output has shape {tuple(got.shape)}, not {tuple(wanted.shape)}"
        )
    error = float((got - wanted).abs().max())
    scale = max(float(wanted.abs().max()), 1e-6)
    if not error <= TOLERANCE * scale:
        raise InternalCheckError(
            f"after shrinking, the output differs from the masked model's by {error:.3g} "
            f"(largest output {scale:.3g})"
        )
