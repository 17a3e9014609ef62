"""The allocation problem: one width a group, least loss, cost within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgeprune.cost.table import PriceList
from edgeprune.errors import InternalCheckError
from edgeprune.records import CostTable, PricedLayer, ResidualBlock, SensitivityCurve

Matrix = NDArray[np.float64]
Choice = Sequence[int]  # an option for each group
Spared = tuple[tuple[str, str], ...]
NOTHING: Mapping[str, Spared] = MappingProxyType({})


@dataclass(frozen=True)
class LayerTerm:
    """Cost of one layer: `costs[i, j]` at option i of group `group_in` and option j of `group_out`.

    Where one of them is None, that axis has length 1. Where both are the same group (depthwise),
    only the diagonal counts. `spared` holds pairs of layers: where a branch is removed that has the
    first and not the second, the term is 0. Only such a term may have no group at all.
    """

    name: str
    group_in: int | None
    group_out: int | None
    costs: Matrix
    spared: Spared = ()


@dataclass(frozen=True)
class Resource:
    """Something besides the main cost that is limited: fixed + sum of terms <= limit.

    MACs, parameters and flash are one such row each. A largest value over time (RAM) is one row a
    time step: rows of one `name` belong together, and `part` tells them apart.

    Args:
        name: of the resource, as in the job file: "macs", "parameters", "ram", "flash".
        unit: of limit, terms and fixed part: "MACs", "parameters", "bytes".
        limit: the largest value allowed.
        terms: what depends on widths, for each layer or tensor.
        fixed: what does not.
        part: which row of several.
    """

    name: str
    unit: str
    limit: float
    terms: tuple[LayerTerm, ...]
    fixed: float = 0.0
    part: str = ""

    def used(self, choice: Choice) -> float:
        """Return the value when group g takes its option `choice[g]`."""
        return self.fixed + total(self.terms, choice)


@dataclass(frozen=True)
class Problem:
    """Groups with their offered widths and losses, layers with their costs.

    Args:
        names: group names.
        widths: offered widths of each group, ascending, the last dense.
        losses: loss of each offered width; 0 at the dense one.
        layers: cost terms in the device's unit.
        fixed: cost of everything that no group touches.
        resources: further limits.
        blocks: branches that may be removed: option 0 of all of their groups, or of none.
    """

    names: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]
    losses: tuple[tuple[float, ...], ...]
    layers: tuple[LayerTerm, ...]
    fixed: float
    resources: tuple[Resource, ...] = ()
    blocks: tuple[ResidualBlock, ...] = ()

    @property
    def tied(self) -> tuple[tuple[int, ...], ...]:
        """Groups of one branch: all of them take option 0, or none does."""
        return tuple(tuple(self.names.index(g) for g in block.groups) for block in self.blocks)

    @property
    def dense(self) -> tuple[int, ...]:
        """The choice that cuts nothing."""
        return tuple(len(widths) - 1 for widths in self.widths)

    def cost(self, choice: Choice) -> float:
        """Return the cost when group g takes its option `choice[g]`."""
        return self.fixed + total(self.layers, choice)

    def used(self, choice: Choice) -> dict[str, float]:
        """Return resource -> its value at a choice, of several rows the largest."""
        found: dict[str, float] = {}
        for resource in self.resources:
            value = resource.used(choice)
            found[resource.name] = max(value, found.get(resource.name, value))
        return found

    def limits(self) -> dict[str, Resource]:
        """Return resource -> one of its rows, for its unit and limit."""
        return {resource.name: resource for resource in self.resources}

    def loss(self, choice: Choice) -> float:
        """Return the summed loss of a choice."""
        return sum(self.losses[g][option] for g, option in enumerate(choice))

    def widths_of(self, choice: Choice) -> dict[str, int]:
        """Return group -> width."""
        return {name: self.widths[g][choice[g]] for g, name in enumerate(self.names)}


def observed(problem: Problem, choice: Choice, values: Mapping[str, float]) -> Problem:
    """Return `problem` with the rows of resources moved so that `choice` has the `values` seen."""
    used = problem.used(choice)
    rows = tuple(
        replace(row, fixed=row.fixed + values[row.name] - used[row.name])
        if row.name in values
        else row
        for row in problem.resources
    )
    return replace(problem, resources=rows)


def total(terms: Sequence[LayerTerm], choice: Choice) -> float:
    """Return the sum of `terms` at a choice."""
    found = 0.0
    for term in terms:
        i = choice[term.group_in] if term.group_in is not None else 0
        j = choice[term.group_out] if term.group_out is not None else 0
        found += float(term.costs[i, j])
    return found


def layer_terms(
    table: CostTable,
    value: Callable[[PricedLayer, int, int], float],
    spared: Mapping[str, Spared] = NOTHING,
) -> tuple[tuple[LayerTerm, ...], float]:
    """Return what each layer adds to a sum over layers, and the part that never changes.

    Args:
        table: layers, with the groups on their two sides, and offered widths.
        value: layer, its width in and its width out to what it adds.
        spared: layer -> what it is spared with, as in `LayerTerm`.
    """
    index = {name: g for g, name in enumerate(table.widths)}
    fixed, terms = 0.0, []
    for layer in table.layers:
        ins = table.widths[layer.group_in] if layer.group_in else (layer.width_in,)
        outs = table.widths[layer.group_out] if layer.group_out else (layer.width_out,)
        without = spared.get(layer.name, ())
        if not layer.group_in and not layer.group_out and not without:
            fixed += value(layer, layer.width_in, layer.width_out)
            continue
        same = layer.group_in == layer.group_out is not None
        costs = [[value(layer, a, b) if not same or a == b else 0.0 for b in outs] for a in ins]
        terms.append(
            LayerTerm(
                name=layer.name,
                group_in=index[layer.group_in] if layer.group_in else None,
                group_out=index[layer.group_out] if layer.group_out else None,
                costs=np.array(costs),
                spared=without,
            )
        )
    return tuple(terms), fixed


def build_problem(
    table: CostTable,
    curves: Mapping[str, SensitivityCurve],
    resources: tuple[Resource, ...] = (),
    spared: Mapping[str, Spared] = NOTHING,
) -> Problem:
    """Return the problem that a cost table and one loss curve a group pose.

    Losses are made monotone first: a wider group never counts as worse than a narrower one, since
    such a bump is noise of the calibration data. `spared` is what layers are spared with, as in
    `LayerTerm`.

    Raises:
        InternalCheckError: a group has no curve, or one over other widths.
        UnsupportedModelError: a price is missing.
    """
    names = tuple(table.widths)
    price = PriceList.of(table)
    losses = []
    for name in names:
        curve = curves.get(name)
        if curve is None or curve.widths != table.widths[name]:
            raise InternalCheckError(f"group {name} has no loss curve over its offered widths")
        losses.append(monotone(curve.increases))
    layers, fixed = layer_terms(
        table, lambda layer, a, b: table.within(layer, a, b, price(layer.name, a, b)), spared
    )
    widths = tuple(table.widths[name] for name in names)
    fixed += table.constant
    return Problem(names, widths, tuple(losses), layers, fixed, resources)


def flat_curves(table: CostTable) -> dict[str, SensitivityCurve]:
    """Return curves without any loss, for questions about costs alone."""
    return {
        name: SensitivityCurve(
            group=name, criterion="none", widths=widths, increases=(0.0,) * len(widths)
        )
        for name, widths in table.widths.items()
    }


def monotone(increases: Sequence[float]) -> tuple[float, ...]:
    """Return losses that never rise with width and are never below 0 (narrow to wide).

    Raises:
        InternalCheckError: one is NaN, which would count as 0: a width that loses nothing.
    """
    if any(math.isnan(value) for value in increases):
        raise InternalCheckError("a loss increase is not a number")
    worst, result = 0.0, []
    for value in reversed(increases):
        worst = max(worst, value)
        result.append(worst)
    result[0] = 0.0
    return tuple(reversed(result))
