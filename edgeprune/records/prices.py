"""What layers cost at which widths on a device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from pydantic import Field

from edgeprune.records.base import Cost, Kind, Record, Unit, Whole
from edgeprune.records.device import Environment
from edgeprune.records.plan import SkippedGroup

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
    cost: Cost
    origin: Kind
    basis: Basis = "measured"


class Stair(Record):
    """What channels beyond full tiles of `period` channels add to a layer's cost.

    `shares` are the cost of j more channels as shares of what a whole tile adds: 1 on a stair, j /
    `period` where there is none. `factors`, if any, stand for them: what the cost of the next full
    tile is multiplied by.
    """

    period: int = Field(ge=1)
    shares: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()


class Kernels(Record):
    """Which of its kernels the runtime takes at which width on one side of a layer.

    From `start` channels on, multiples of `multiple` run kernel 0 and all other widths kernel 1;
    narrower ones run kernel 2. The default says that one kernel runs them all.
    """

    multiple: int = Field(default=1, ge=1)
    start: int = 1

    def at(self, width: int) -> int:
        """Return the number of the kernel that runs `width` channels."""
        if width < self.start:
            return 2
        return int(width % self.multiple != 0)

    def widths(self, kernel: int, low: int, high: int) -> list[int]:
        """Return the widths from `low` to `high` that `kernel` runs."""
        return [width for width in range(low, high + 1) if self.at(width) == kernel]


class LayerStair(Record):
    """A layer over its input width, its output width, or both as one.

    `stair` is that of kernel 0.
    """

    layer: str
    side: Side
    stair: Stair
    kernels: Kernels = Kernels()


class Branch(Record):
    """A layer where one of its widths is run by another kernel than number 0.

    Args:
        layer: its name; it has a group on either side.
        kernels: the number of the kernel by the width in, and by the width out.
        ins: widths in at which costs are known.
        outs: widths out at which they are.
        costs: a row for each width in.
        stairs: over the widths in and out.
    """

    layer: str
    kernels: tuple[int, int]
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    costs: tuple[tuple[float, ...], ...]
    stairs: tuple[Stair, Stair]


class PricedLayer(Record):
    """A layer as the cost table sees it: which group feeds it and which group it feeds.

    `weights` counts those of the dense layer; each channel of a `depthwise` layer has its own. Of
    them `hidden` are those of a recurrent layer from one step to the next, which have the width of
    the output on both sides, and `single` those that belong to one width alone: biases and scales.
    """

    name: str
    operator: str
    group_in: str | None
    group_out: str | None
    width_in: int
    width_out: int
    weights: int = 0
    hidden: int = 0
    single: int = 0
    depthwise: bool = False

    def widths_of(self, plan: Mapping[str, int]) -> tuple[int, int]:
        """Return both widths where the groups are as wide as `plan` says, the others dense."""
        return (
            plan.get(self.group_in, self.width_in) if self.group_in else self.width_in,
            plan.get(self.group_out, self.width_out) if self.group_out else self.width_out,
        )

    def weights_at(self, width_in: int, width_out: int) -> float:
        """Return how many weights the layer has at these widths."""
        tall = width_out / max(1, self.width_out)
        wide = 1.0 if self.depthwise else width_in / max(1, self.width_in)
        both = self.weights - self.hidden - self.single
        return tall * (wide * both + tall * self.hidden + self.single)

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


class Border(Record):
    """What a change of memory layout costs `before` and `after` a layer run by these kernels.

    Both are (width, cost) at the narrowest and the widest width measured; 0 where there is none.
    """

    layer: str
    kernels: tuple[int, int]
    before: tuple[tuple[int, float], ...]
    after: tuple[tuple[int, float], ...]


class Joint(Record):
    """Who reads what a layer writes: names, and whether it is a sum fused into that layer."""

    writer: str
    readers: tuple[tuple[str, bool], ...]


class Sum(Record):
    """What a sum that is fused into a layer costs where it runs by itself: (width, cost)."""

    layer: str
    costs: tuple[tuple[int, float], ...]


class WholePlan(Record):
    """A whole plan as the device gave it: its cost as a share of the dense model's.

    The layers `gone` do not run.
    """

    widths: dict[str, int]
    gone: tuple[str, ...] = ()
    share: float
    low: float
    high: float


Rules = Mapping[tuple[str, Side], Kernels]


def kernels_at(rules: Rules, layer: PricedLayer, pair: tuple[int, int]) -> tuple[int, int]:
    """Return the numbers of the kernels that run a layer's widths in and out; 0 without a group."""
    found = {side: rules.get((layer.name, side), Kernels()) for side in layer.sides}
    if "both" in found:
        return (found["both"].at(pair[1]),) * 2
    a, b = (found[s].at(w) if s in found else 0 for s, w in zip(("in", "out"), pair, strict=True))
    return a, b


class CostTable(Record):
    """Prices of every layer of one model on one device, and the widths worth offering.

    `fixed` layers have neither input nor output in a group: their price never changes.
    `skipped` are the groups that have no prices, and are therefore never cut.
    `swept` holds the prices by which stairs were found: one group at many widths, all else dense.
    `constant` is what a run costs beside its layers, whatever their widths: the way into the
    runtime and out again.

    Alone, a layer finds its weights and tensors in the processor's caches; in the model they have
    made way for those of the others. So with n weights it costs `scale` price + `cold` n in the
    model (`within`), and `other` times the price's part where another kernel runs it than in the
    dense model; and every layer that runs costs `beside` more, whatever its widths: the way from
    one layer to the next. `constant`, `scale`, `beside`, `cold` and `other` are fitted to the dense
    model and the `whole` plans (cost/whole.py). Without these `cold` and `beside` are 0, `other` 1
    and `scale` = (whole dense model - constant) / sum of its prices; or, where costs are counts and
    those of the dense model come to more than its prices, `scale` is 1 and `beside` the rest.
    """

    device: str
    kind: Kind
    unit: Unit
    dense_cost: Whole
    scale: float = 1.0
    beside: Cost = 0.0
    cold: float = 0.0
    other: float = 1.0
    layers: tuple[PricedLayer, ...]
    widths: dict[str, tuple[int, ...]]
    skipped: tuple[SkippedGroup, ...] = ()
    prices: tuple[Price, ...]
    swept: tuple[Price, ...] = ()
    stairs: tuple[LayerStair, ...] = ()
    branches: tuple[Branch, ...] = ()
    borders: tuple[Border, ...] = ()
    joints: tuple[Joint, ...] = ()
    sums: tuple[Sum, ...] = ()
    constant: float = 0.0
    whole: tuple[WholePlan, ...] = ()
    probes: int
    environment: Environment

    def within(self, layer: PricedLayer, width_in: int, width_out: int, price: float) -> float:
        """Return what a layer with this price costs in the model, in the device's unit."""
        scale = self.scale
        if self.other != 1.0 and self.runs_otherwise(layer, (width_in, width_out)):
            scale *= self.other
        beside = self.beside if price > 0 else 0.0  # what takes no time does not run
        return scale * price + beside + self.cold * layer.weights_at(width_in, width_out)

    def runs_otherwise(self, layer: PricedLayer, pair: tuple[int, int]) -> bool:
        """Whether another kernel runs a layer at this pair of widths than in the dense model."""
        rules = self.rules
        return kernels_at(rules, layer, pair) != kernels_at(rules, layer, layer.widths)

    @cached_property
    def rules(self) -> Rules:
        """Which kernel runs which width of each layer, by its side."""
        return {(entry.layer, entry.side): entry.kernels for entry in self.stairs}


class ProbeCost(Record):
    """What a layer cost alone, and what ran: the operators of the runtime's nodes, in order.

    `before` and `after` are the changes of memory layout at its two borders, which are no part of
    `cost`.
    """

    cost: Cost
    before: Cost = 0.0
    after: Cost = 0.0
    operators: tuple[str, ...] = ()

    def times(self, factor: float) -> ProbeCost:
        """Return the same at another speed of the device."""
        cost, before, after = (factor * x for x in (self.cost, self.before, self.after))
        return self.model_copy(update={"cost": cost, "before": before, "after": after})


class KeptPrices(Record):
    """Prices of layers by a hash of what was run: of the quick sweep for stairs, and of pairs."""

    device: str
    precision: str
    environment: Environment
    stairs: dict[str, ProbeCost]
    prices: dict[str, ProbeCost]
