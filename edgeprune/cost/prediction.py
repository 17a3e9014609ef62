"""What a whole plan will cost at any widths, and on what kind of prices that rests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeprune.cost.branches import BranchPrices
from edgeprune.cost.joints import JointCosts
from edgeprune.cost.staircase import Curve
from edgeprune.cost.surface import Surface
from edgeprune.errors import UnsupportedModelError
from edgeprune.records import Basis, CostTable, PricedLayer, Side


@dataclass(frozen=True)
class Prediction:
    """A cost in the device's unit, and how much of it rests on each kind of price."""

    cost: float
    parts: dict[Basis, float]


@dataclass(frozen=True)
class Predictor:
    """Predicts the cost of plans from a cost table.

    A price keeps the basis that the table gives it. Between offered widths it follows the stairs
    that were found: the layer's curve over one width, all else dense, gives the place on that side
    (`Curve`), and the table's prices give the cost at a pair of places (`Surface`). Such a price is
    *interpolated* where one of the widths is offered, and *estimated* where neither is.
    """

    table: CostTable

    def __call__(self, widths: Mapping[str, int], gone: Collection[str] = ()) -> Prediction:
        """Return the predicted cost when the groups have these `widths`, without layers `gone`.

        What a run costs beside its layers counts as measured.

        Raises:
            UnsupportedModelError: a layer has no price at all.
        """
        parts: dict[Basis, float] = {"measured": 0.0, "interpolated": 0.0, "estimated": 0.0}
        parts["measured"] += self.table.constant
        for layer in self.table.layers:
            if layer.name in gone:
                continue
            a, b = layer.widths_of(widths)
            cost, basis = self.price(layer, a, b)
            parts[basis] += self.table.within(layer, a, b, cost)
        parts["estimated"] += self.table.scale * self._joints(widths)
        return Prediction(sum(parts.values()), parts)

    def price(self, layer: PricedLayer, a: int, b: int) -> tuple[float, Basis]:
        """Return the price of a layer at widths `a` in and `b` out, and what it rests on.

        Raises:
            UnsupportedModelError: it has none.
        """
        basis: Basis
        known = self._pairs.get((layer.name, a, b))
        if known is not None:
            return known
        if not layer.sides or (layer.sides == ("both",) and a != b):
            raise UnsupportedModelError(f"layer {layer.name} has no price at widths ({a}, {b})")
        beside = self._beside.price(layer, a, b) if len(layer.sides) == 2 else None
        if beside is not None:
            return beside
        if len(layer.sides) == 1:
            curve, width = self._curve(layer, layer.sides[0]), b if layer.sides[0] == "out" else a
            if curve.kernels.at(width):  # no place between offered widths, which kernel 0 runs
                basis = "measured" if width in curve.points else "interpolated"
                return curve.at(width), basis
        place_in = self._curve(layer, layer.sides[0]).at(b if layer.sides[0] == "out" else a)
        place_out = self._curve(layer, "out").at(b) if len(layer.sides) == 2 else 0.0
        offered = [
            width in self.table.widths[group]
            for group, width in ((layer.group_in, a), (layer.group_out, b))
            if group
        ]
        basis = "interpolated" if len(layer.sides) == 1 or any(offered) else "estimated"
        return self._surface(layer).at(place_in, place_out), basis

    def _surface(self, layer: PricedLayer) -> Surface:
        found = self._surfaces.get(layer.name)
        if found is None:
            ends = [self.table.widths[str(layer.group_at(side))] for side in layer.sides]
            places = [
                [self._curve(layer, side).at(width) for width in widths]
                for side, widths in zip(layer.sides, ends, strict=True)
            ]
            if len(ends) == 1:
                costs = [[self._known(layer, *layer.at(layer.sides[0], w))] for w in ends[0]]
            else:
                costs = [[self._known(layer, a, b) for b in ends[1]] for a in ends[0]]
            found = Surface(places[0], places[1] if len(ends) == 2 else [0.0], np.array(costs))
            self._surfaces[layer.name] = found
        return found

    def _known(self, layer: PricedLayer, a: int, b: int) -> float:
        try:
            return self._pairs[layer.name, a, b][0]
        except KeyError:
            raise UnsupportedModelError(
                f"layer {layer.name} has no price at widths ({a}, {b})"
            ) from None

    def _curve(self, layer: PricedLayer, side: Side) -> Curve:
        return self._curves[layer.name, side]

    @cached_property
    def _surfaces(self) -> dict[str, Surface]:
        return {}

    @cached_property
    def _pairs(self) -> dict[tuple[str, int, int], tuple[float, Basis]]:
        prices = self.table.prices
        return {(p.layer, p.width_in, p.width_out): (p.cost, p.basis) for p in prices}

    @cached_property
    def _curves(self) -> dict[tuple[str, Side], Curve]:
        layers = {layer.name: layer for layer in self.table.layers}
        points: dict[tuple[str, Side], dict[int, float]] = {}
        for price in self.table.swept:
            layer = layers[price.layer]
            pair = price.width_in, price.width_out
            for side in layer.sides:
                width = price.width_out if side == "out" else price.width_in
                if pair == layer.at(side, width):
                    points.setdefault((layer.name, side), {})[width] = price.cost
        return {
            (e.layer, e.side): Curve(points[e.layer, e.side], e.stair, e.kernels)
            for e in self.table.stairs
        }

    @cached_property
    def _joints(self) -> JointCosts:
        return JointCosts(self.table)

    @cached_property
    def _beside(self) -> BranchPrices:
        return BranchPrices(self.table.branches, self.table.rules)
