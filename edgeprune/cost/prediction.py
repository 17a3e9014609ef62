"""What a whole plan will cost at any widths, and on what kind of prices that rests."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from edgeprune.errors import UnsupportedModelError
from edgeprune.records import CostTable, PricedLayer

Basis = Literal["measured", "interpolated", "estimated"]


@dataclass(frozen=True)
class Prediction:
    """A cost in the device's unit, and how much of it rests on each kind of price."""

    cost: float
    parts: dict[Basis, float]


@dataclass(frozen=True)
class Predictor:
    """Predicts the cost of plans from a cost table.

    A price is *measured* where the pair of widths was, *interpolated* where one side stands between
    two swept widths (the wider one counts, since costs rise in steps), and *estimated* where both
    sides are off what was measured as a pair. Then, with the offered widths A >= a and B >= b next
    to it and the sweeps s of either side alone,

        price(a, b) = price(A, B) * s_in(a) / s_in(A) * s_out(b) / s_out(B)
    """

    table: CostTable

    def __call__(self, widths: Mapping[str, int]) -> Prediction:
        """Return the predicted cost when the groups have these `widths`.

        Raises:
            UnsupportedModelError: a layer has no price at all.
        """
        parts: dict[Basis, float] = {"measured": 0.0, "interpolated": 0.0, "estimated": 0.0}
        for layer in self.table.layers:
            a = widths.get(layer.group_in, layer.width_in) if layer.group_in else layer.width_in
            b = widths.get(layer.group_out, layer.width_out) if layer.group_out else layer.width_out
            cost, basis = self.price(layer, a, b)
            parts[basis] += self.table.scale * cost
        return Prediction(sum(parts.values()), parts)

    def price(self, layer: PricedLayer, a: int, b: int) -> tuple[float, Basis]:
        """Return the price of a layer at widths `a` in and `b` out, and what it rests on."""
        known = self._pairs.get((layer.name, a, b))
        if known is not None:
            return known, "measured"
        wide_a, wide_b = self._offered(layer.group_in, a), self._offered(layer.group_out, b)
        if layer.group_in is not None and layer.group_in == layer.group_out:
            wide_b = wide_a
        known = self._pairs.get((layer.name, wide_a, wide_b))
        if known is None:
            raise UnsupportedModelError(f"layer {layer.name} has no price at widths ({a}, {b})")
        if layer.group_in == layer.group_out:
            ratio, near = self._ratio(layer, "both", a, wide_a)
            return known * ratio, "interpolated" if near else "measured"
        ratio_in, near_in = self._ratio(layer, "in", a, wide_a)
        ratio_out, near_out = self._ratio(layer, "out", b, wide_b)
        both = a != wide_a and b != wide_b
        basis: Basis = "estimated" if both else "interpolated"
        if not both and not near_in and not near_out:
            basis = "measured" if (a, b) in self._swept(layer.name) else "estimated"
        return known * ratio_in * ratio_out, basis

    def _offered(self, group: str | None, width: int) -> int:
        return _up(self.table.widths[group], width) if group else width

    def _ratio(self, layer: PricedLayer, side: str, width: int, wide: int) -> tuple[float, bool]:
        """Return swept cost at `width` over that at `wide`, and whether a swept width stood in."""
        if width == wide:
            return 1.0, False
        line = self._lines.get((layer.name, side), {})
        if wide not in line:
            return 1.0, True
        near = _up(sorted(line), width)
        return line[near] / line[wide], near != width

    def _swept(self, name: str) -> set[tuple[int, int]]:
        return {(p.width_in, p.width_out) for p in self.table.swept if p.layer == name}

    @cached_property
    def _pairs(self) -> dict[tuple[str, int, int], float]:
        return {(p.layer, p.width_in, p.width_out): p.cost for p in self.table.prices}

    @cached_property
    def _lines(self) -> dict[tuple[str, str], dict[int, float]]:
        """(layer, side) -> width on that side -> cost, the other side dense."""
        layers = {layer.name: layer for layer in self.table.layers}
        found: dict[tuple[str, str], dict[int, float]] = {}
        for price in self.table.swept:
            layer = layers[price.layer]
            if layer.group_in is not None and layer.group_in == layer.group_out:
                found.setdefault((layer.name, "both"), {})[price.width_in] = price.cost
                continue
            if price.width_out == layer.width_out:
                found.setdefault((layer.name, "in"), {})[price.width_in] = price.cost
            if price.width_in == layer.width_in:
                found.setdefault((layer.name, "out"), {})[price.width_out] = price.cost
        return found


def _up(widths: Sequence[int], width: int) -> int:
    """Return the narrowest of ascending `widths` that is at least `width`, else the widest."""
    return widths[min(bisect_left(widths, width), len(widths) - 1)]
