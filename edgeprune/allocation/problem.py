"""The allocation problem: one width a group, least loss, cost within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.cost.table import PriceList
from edgeprune.errors import InternalCheckError
from edgeprune.records import CostTable, SensitivityCurve

Matrix = NDArray[np.float64]
Choice = Sequence[int]  # an option for each group


@dataclass(frozen=True)
class LayerTerm:
    """Cost of one layer: `costs[i, j]` at option i of group `group_in` and option j of `group_out`.

    Where one of them is None, that axis has length 1. Where both are the same group (depthwise),
    only the diagonal counts.
    """

    name: str
    group_in: int | None
    group_out: int | None
    costs: Matrix


@dataclass(frozen=True)
class Problem:
    """Groups with their offered widths and losses, layers with their costs.

    Args:
        names: group names.
        widths: offered widths of each group, ascending, the last dense.
        losses: loss of each offered width; 0 at the dense one.
        layers: cost terms in the device's unit.
        fixed: cost of everything that no group touches.
    """

    names: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]
    losses: tuple[tuple[float, ...], ...]
    layers: tuple[LayerTerm, ...]
    fixed: float

    def cost(self, choice: Choice) -> float:
        """Return the cost when group g takes its option `choice[g]`."""
        total = self.fixed
        for layer in self.layers:
            i = choice[layer.group_in] if layer.group_in is not None else 0
            j = choice[layer.group_out] if layer.group_out is not None else 0
            total += float(layer.costs[i, j])
        return total

    def loss(self, choice: Choice) -> float:
        """Return the summed loss of a choice."""
        return sum(self.losses[g][option] for g, option in enumerate(choice))

    def widths_of(self, choice: Choice) -> dict[str, int]:
        """Return group -> width."""
        return {name: self.widths[g][choice[g]] for g, name in enumerate(self.names)}


def build_problem(table: CostTable, curves: Mapping[str, SensitivityCurve]) -> Problem:
    """Return the problem that a cost table and one loss curve a group pose.

    Losses are made monotone first: a wider group never counts as worse than a narrower one, since
    such a bump is noise of the calibration data.

    Raises:
        InternalCheckError: a group has no curve, or one over other widths.
        UnsupportedModelError: a price is missing.
    """
    names = tuple(table.widths)
    index = {name: g for g, name in enumerate(names)}
    price = PriceList.of(table)
    losses = []
    for name in names:
        curve = curves.get(name)
        if curve is None or curve.widths != table.widths[name]:
            raise InternalCheckError(f"group {name} has no loss curve over its offered widths")
        losses.append(monotone(curve.increases))
    fixed, layers = 0.0, []
    for layer in table.layers:
        ins = table.widths[layer.group_in] if layer.group_in else (layer.width_in,)
        outs = table.widths[layer.group_out] if layer.group_out else (layer.width_out,)
        if not layer.group_in and not layer.group_out:
            fixed += table.scale * price(layer.name, layer.width_in, layer.width_out)
            continue
        same = layer.group_in == layer.group_out
        costs = np.array(
            [
                [table.scale * price(layer.name, a, b) if not same or a == b else 0.0 for b in outs]
                for a in ins
            ]
        )
        layers.append(
            LayerTerm(
                name=layer.name,
                group_in=index[layer.group_in] if layer.group_in else None,
                group_out=index[layer.group_out] if layer.group_out else None,
                costs=costs,
            )
        )
    return Problem(
        names, tuple(table.widths[n] for n in names), tuple(losses), tuple(layers), fixed
    )


def flat_curves(table: CostTable) -> dict[str, SensitivityCurve]:
    """Return curves without any loss, for questions about costs alone."""
    return {
        name: SensitivityCurve(
            group=name, criterion="none", widths=widths, increases=(0.0,) * len(widths)
        )
        for name, widths in table.widths.items()
    }


def monotone(increases: Sequence[float]) -> tuple[float, ...]:
    """Return losses that never rise with width and are never below 0 (narrow to wide)."""
    worst, result = 0.0, []
    for value in reversed(increases):
        worst = max(worst, value)
        result.append(worst)
    result[0] = 0.0
    return tuple(reversed(result))
