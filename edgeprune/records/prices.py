"""What layers cost at which widths on a device."""

from __future__ import annotations

from typing import Literal

from edgeprune.records.base import Kind, Record, Unit
from edgeprune.records.device import Environment

Side = Literal["in", "out", "both"]
Basis = Literal["measured", "interpolated", "estimated"]


class Price(Record):
    """Cost of one layer at one pair of widths.

    `basis` tells what it rests on: this pair as run on the device, pairs that differ in one width
    only, or pairs that differ in both.
    """

    layer: str
    width_in: int
    width_out: int
    cost: float
    origin: Kind
    basis: Basis = "measured"


class Stair(Record):
    """What channels beyond full tiles of `period` channels add to a layer's cost.

    `shares` are the cost of j more channels as shares of what a whole tile adds: 1 on a stair, j /
    `period` where there is none. `factors`, if any, stand for them: what the cost of the next full
    tile is multiplied by.
    """

    period: int
    shares: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()


class LayerStair(Record):
    """The stair of a layer over its input width, its output width, or both as one."""

    layer: str
    side: Side
    stair: Stair


class PricedLayer(Record):
    """A layer as the cost table sees it: which group feeds it and which group it feeds."""

    name: str
    operator: str
    group_in: str | None
    group_out: str | None
    width_in: int
    width_out: int

    @property
    def widths(self) -> tuple[int, int]:
        """The dense widths."""
        return self.width_in, self.width_out

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides whose widths change: "both" where one group is on both of them."""
        if self.group_in is not None and self.group_in == self.group_out:
            return ("both",)
        ends: tuple[tuple[Side, str | None], ...] = (("in", self.group_in), ("out", self.group_out))
        return tuple(side for side, group in ends if group is not None)

    def group_at(self, side: Side) -> str | None:
        """Return the group on one side."""
        return self.group_out if side == "out" else self.group_in

    def at(self, side: Side, width: int) -> tuple[int, int]:
        """Return both widths where that on `side` is `width` and the other is dense."""
        return (
            self.width_in if side == "out" else width,
            self.width_out if side == "in" else width,
        )


class CostTable(Record):
    """Prices of every layer of one model on one device, and the widths worth offering.

    `fixed` layers have neither input nor output in a group: their price never changes.
    `swept` holds the prices by which stairs were found: one group at many widths, all else dense.
    `constant` is what a run costs beside its layers, whatever their widths: the way into the
    runtime and out again. `scale` = (whole dense model - constant) / sum of its prices: what a sum
    of prices is multiplied with before the constant is added.
    """

    device: str
    kind: Kind
    unit: Unit
    dense_cost: float
    scale: float
    layers: tuple[PricedLayer, ...]
    widths: dict[str, tuple[int, ...]]
    prices: tuple[Price, ...]
    swept: tuple[Price, ...] = ()
    stairs: tuple[LayerStair, ...] = ()
    constant: float = 0.0
    probes: int
    environment: Environment


class KeptPrices(Record):
    """Prices of layers by a hash of what was run: of the quick sweep for stairs, and of pairs."""

    device: str
    precision: str
    environment: Environment
    stairs: dict[str, float]
    prices: dict[str, float]
