"""Scores and weights of a finished run, in the form in which the report draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeprune.importance.normalisation import mean_rank
from edgeprune.pruning.channels import CONVOLUTIONS
from edgeprune.pruning.recurrent import RECURRENT
from edgeprune.records import GroupList, ScoreSpread, Views, WeightPattern, WidthPlan

CELLS, LEVELS = 64, 10
LAYERS = 3  # drawn: those that lose most weights


def collect(
    dense: nn.Module,
    slim: nn.Module,
    plan: WidthPlan,
    groups: GroupList,
    scores: Mapping[str, Tensor],
) -> Views:
    """Return what the report draws of a run.

    Args:
        dense: the dense model.
        slim: the recovered slim model.
        plan: width and kept channels of every group.
        groups: the groups of the dense model.
        scores: "criterion/group" -> scores [width].
    """
    by_group: dict[str, dict[str, Tensor]] = {}
    for key, score in scores.items():
        criterion, _, name = key.partition("/")
        by_group.setdefault(name, {})[criterion] = score
    by_name = {group.name: group for group in groups.groups}
    spreads = tuple(
        ScoreSpread(
            group=name,
            criterion=planned.criterion,
            scores=tuple(
                float(f"{value:.6g}")
                for value in mean_rank(by_group[name], planned.criterion, by_name[name])
            ),
            kept=planned.kept,
        )
        for name, planned in plan.groups.items()
        if set(planned.criterion.split("+")) <= set(by_group.get(name, ()))
    )
    return Views(
        groups=groups, spreads=spreads, patterns=weight_patterns(dense, slim, plan, groups)
    )


def weight_patterns(
    dense: nn.Module, slim: nn.Module, plan: WidthPlan, groups: GroupList, most: int = LAYERS
) -> tuple[WeightPattern, ...]:
    """Return the patterns of the `most` layers that lose most weights, in the model's order."""
    kept = {name: planned.kept for name, planned in plan.groups.items()}
    out = {layer: kept[g.name] for g in groups.groups for layer in g.outputs if g.name in kept}
    into = {layer: kept[g.name] for g in groups.groups for layer in g.inputs if g.name in kept}
    before, after = dict(dense.named_modules()), dict(slim.named_modules())
    sizes: dict[str, int] = {}
    for name in before:
        old, new = norms(before[name]), norms(after[name]) if name in after else None
        if (name in out or name in into) and old is not None and new is not None:
            sizes[name] = old.numel() - new.numel()
    chosen = sorted((name for name in sizes if sizes[name]), key=lambda name: -sizes[name])[:most]
    found = []
    for name in (layer for layer in before if layer in chosen):
        old, new = norms(before[name]), norms(after[name])
        if old is not None and new is not None:
            found.append(_pattern(name, old, new, out.get(name), into.get(name)))
    return tuple(found)


def norms(module: nn.Module) -> Tensor | None:
    """Return the norms [outputs, inputs] of a layer's weights, or None for other layers.

    Of a recurrent layer, the norm over the gates of the weights on its input (the first layer's of
    a stack). Of grouped convolutions there is none.
    """
    if isinstance(module, RECURRENT):
        gates = module.get_parameter("weight_ih_l0").detach()
        by_gate = gates.view(-1, module.hidden_size, gates.shape[1])
        found: Tensor = torch.linalg.vector_norm(by_gate, dim=0)
        return found
    if not isinstance(module, (nn.Linear, *CONVOLUTIONS)) or getattr(module, "groups", 1) > 1:
        return None
    weight: Tensor = module.get_parameter("weight").detach()
    return weight.abs() if weight.ndim == 2 else torch.linalg.vector_norm(weight.flatten(2), dim=2)


def _pattern(
    name: str, old: Tensor, new: Tensor, out: Sequence[int] | None, into: Sequence[int] | None
) -> WeightPattern:
    rows, columns = torch.zeros(old.shape[0]), torch.zeros(old.shape[1])
    rows[list(range(old.shape[0]) if out is None else out)] = 1
    entries = old.shape[1] // _width(into, new.shape[1], old.shape[1])
    if into is None:
        columns[:] = 1
    else:
        columns.view(-1, entries)[list(into)] = 1
    most = float(_binned(old).max()) or 1.0
    return WeightPattern(
        layer=name,
        dense_shape=(old.shape[0], old.shape[1]),
        slim_shape=(new.shape[0], new.shape[1]),
        dense=_levels(old, most),
        stays=tuple(
            tuple(value >= 0.5 for value in row)
            for row in _binned(rows[:, None] * columns[None, :]).tolist()
        ),
        slim=_levels(new, most),
    )


def _width(into: Sequence[int] | None, new: int, old: int) -> int:
    """Return the dense number of channels that feed a layer, flattened or not."""
    if into is None:
        return old
    return old // max(1, new // len(into))


def _binned(matrix: Tensor) -> Tensor:
    size = (min(CELLS, matrix.shape[0]), min(CELLS, matrix.shape[1]))
    return nn.functional.adaptive_avg_pool2d(matrix[None, None], size)[0, 0]


def _levels(matrix: Tensor, most: float) -> tuple[tuple[int, ...], ...]:
    scaled = (LEVELS * _binned(matrix) / most).round().clamp(0, LEVELS)
    return tuple(tuple(int(value) for value in row) for row in scaled.tolist())
