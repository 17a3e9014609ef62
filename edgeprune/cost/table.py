"""The cost table of a model on a device: a price for every layer at every pair of widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeprune.cost.branches import lay_out
from edgeprune.cost.curves import Curves, Design
from edgeprune.cost.joints import find_borders, find_joints, find_sums
from edgeprune.cost.kept import PriceStore
from edgeprune.cost.layers import Layers, priceable
from edgeprune.cost.probes import Probes
from edgeprune.cost.surface import Surface
from edgeprune.cost.sweep import sweep
from edgeprune.devices.protocol import Device
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.fragments import Template, template
from edgeprune.export.precision import Precision
from edgeprune.export.segments import Graph
from edgeprune.records import (
    Basis,
    ChannelGroup,
    CostTable,
    LayerStair,
    ModelProfile,
    Price,
    PricedLayer,
    Side,
)
from edgeprune.store import once

MEASURED = Design(window=33, tile=0.005, bend=0.02, pairs=1500, tick=1.0)  # profilers count 1 us
EXACT = Design(window=17, tile=0.001, bend=0.003, pairs=150)
SLOW = Design(window=0, tile=0.0, bend=0.01, pairs=150)  # each probe is a program of its own
ANCHORS = 3  # widths a side whose pairs are measured where not all are
Widths = tuple[int, int]
Report = Callable[[str, int, int], None]


def _in_rounds(report: Report, what: str) -> Callable[[int, int], None]:
    """Return what receives (done, total) and tells rounds apart: each begins with none done."""
    number = 0

    def told(done: int, total: int) -> None:
        nonlocal number
        number += done == 0
        report(f"{what}, round {number}" if number > 1 else what, done, total)

    return told


def build_table(
    device: Device,
    graph: Graph,
    groups: Sequence[ChannelGroup],
    profile: ModelProfile,
    *,
    seed: int = 0,
    precision: Precision | None = None,
    processes: int = 2,
    floors: Mapping[str, int] | None = None,
    prices: Path | None = None,
    report: Report = lambda what, done, total: None,
    warn: Callable[[str], None] = lambda message: None,
) -> CostTable:
    """Measure the prices of all layers of `graph` that a group touches.

    First the stairs are found: the tile of channels of each kind of layer by a short sweep, and the
    cost over each group's width, all else dense, from few full tiles (`sweep`). Then pairs of the
    offered widths are priced in several fresh processes: all of them where they are few; else those
    with one width dense and, of those with neither, three by three, from which the others follow
    (`Surface`). Each price says whether it was measured, interpolated or estimated.

    Layers that no group touches, or whose shape logic is unknown, keep their dense cost of
    `profile` as a fixed price; where the device compiled them into one piece with others, they are
    priced alone like the rest. Groups of a layer which cannot be priced at other widths are left
    alone (`priceable`), and `warn` is told. Layers go to the device in the given `precision`. No
    width below the `floors` (group -> width) is offered. The folder `prices` keeps what is measured
    for later jobs (None: nothing is kept).

    Raises:
        UnsupportedModelError: no group is left.
    """
    found = priceable(graph, groups, warn)
    precision = precision or Precision()
    where = profile.environment
    store = None
    if prices:
        store = PriceStore(prices, device.spec.name, precision.name, where, once(warn))
    beyond = profile.node_overhead, profile.empty_node
    probes = Probes(device, seed, precision, store, where, *beyond)
    design = _design(device, precision)
    progress = _in_rounds(report, "stairs")
    curves, offered = sweep(probes, found, design, profile, floors or {}, progress)
    layouts = lay_out(probes, curves, design, profile, progress)
    origin = device.spec.figure
    swept = tuple(
        Price(layer=name, width_in=a, width_out=b, cost=cost, origin=origin)
        for (name, a, b), cost in curves.measured().items()
    )
    wanted = _wanted(found, offered, design, exact=device.spec.exact)
    beside = [pair for layout in layouts for pair in layout.pairs]
    fixed, costs = _fixed(graph, found, profile), profile.costs
    probes.take(
        [(found.templates[layer.name], pair) for layer, pair in wanted + beside]
        + [(shape, shape.widths) for shape in fixed.values()],
        processes=processes,
        rounds=15,
        again=True,
        progress=_in_rounds(report, "prices"),
    )
    known = {(la.name, *pair): probes.price(found.templates[la.name], pair) for la, pair in wanted}
    if device.spec.exact:  # a second measurement would tell the same
        known = curves.measured() | known
    listed = [
        Price(layer=layer.name, width_in=a, width_out=b, cost=cost, origin=origin, basis=basis)
        for layer in found.resizable
        for (a, b), (cost, basis) in _prices(layer, curves, offered, known).items()
    ]
    listed += [
        Price(
            layer=layer.name,
            width_in=layer.width_in,
            width_out=layer.width_out,
            cost=costs[layer.name]
            if layer.name in costs
            else probes.price(fixed[layer.name], fixed[layer.name].widths),
            origin=origin,
        )
        for layer in found.layers
        if layer.name not in found.templates
    ]
    dense = {(layer.name): (layer.width_in, layer.width_out) for layer in found.layers}
    alone = [p.cost for p in listed if dense[p.layer] == (p.width_in, p.width_out)]
    total, run = sum(alone), sum(cost > 0 for cost in alone)
    rest = profile.total - profile.call - total
    between = device.spec.exact and rest > 0  # counts of layers miss what runs between them
    rules = curves.kernels
    layers = {layer.name: layer for layer in found.resizable}
    taken = [(layers[name], (a, b)) for name, a, b in curves.measured()] + wanted + beside
    borders = find_borders(probes, found.templates, taken, rules)
    joints = find_joints(graph, borders)
    sums = find_sums(probes, graph, found, joints, offered)
    return CostTable(
        device=device.spec.name,
        kind=device.spec.figure,
        unit=device.spec.unit,
        dense_cost=profile.total,
        scale=1.0 if between else (profile.total - profile.call) / total,
        beside=rest / run if between else 0.0,
        constant=profile.call,
        layers=tuple(found.layers),
        widths=offered,
        skipped=tuple(found.skipped),
        prices=tuple(listed),
        swept=swept,
        stairs=tuple(
            LayerStair(layer=name, side=side, stair=stair, kernels=curves.rule(name, side))
            for (name, side), stair in curves.stairs.items()
        ),
        branches=tuple(
            layout.branch(lambda layer, pair: probes.price(found.templates[layer.name], pair))
            for layout in layouts
        ),
        borders=borders,
        joints=joints,
        sums=sums,
        probes=probes.measured,
        environment=profile.environment,
    )


def _design(device: Device, precision: Precision) -> Design:
    """Return how much to measure on `device`."""
    if device.spec.runtime == "simulated":
        return replace(MEASURED, tick=0.0)
    if not device.spec.exact:
        return MEASURED
    joined = device.spec.runtime != "firmware" or precision.name == "int8"
    return EXACT if joined else SLOW


@dataclass(frozen=True)
class PriceList:
    """Look-ups in a cost table: total or loud."""

    prices: Mapping[tuple[str, int, int], float]

    @classmethod
    def of(cls, table: CostTable) -> PriceList:
        """Return the price list of `table`."""
        return cls({(p.layer, p.width_in, p.width_out): p.cost for p in table.prices})

    def __call__(self, layer: str, width_in: int, width_out: int) -> float:
        """Return a price in the device's unit.

        Raises:
            UnsupportedModelError: there is none; it is never taken to be 0.
        """
        try:
            return self.prices[layer, width_in, width_out]
        except KeyError:
            raise UnsupportedModelError(
                f"layer {layer} has no price at widths ({width_in}, {width_out})",
                "run the pricing stage again without --resume",
            ) from None


def predicted_cost(table: CostTable, widths: Mapping[str, int]) -> float:
    """Return the cost of a run, from the prices of all layers, when groups have these `widths`.

    Raises:
        UnsupportedModelError: a layer has no price there.
    """
    price = PriceList.of(table)
    total = 0.0
    for layer in table.layers:
        width_in, width_out = layer.widths_of(widths)
        cost = price(layer.name, width_in, width_out)
        total += table.within(layer, width_in, width_out, cost)
    return table.constant + total


def _fixed(graph: Graph, found: Layers, profile: ModelProfile) -> dict[str, Template]:
    """Return, of the layers whose widths stay, those without a cost of their own in the profile."""
    segments = {segment.name: segment for segment in graph.segments}
    return {
        layer.name: template(graph, segments[layer.name])
        for layer in found.layers
        if layer.name not in found.templates and layer.name not in profile.costs
    }


def _ends(
    layer: PricedLayer, offered: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Return the widths on both sides of a layer that may meet."""
    return (
        offered[layer.group_in] if layer.group_in else (layer.width_in,),
        offered[layer.group_out] if layer.group_out else (layer.width_out,),
    )


def _wanted(
    found: Layers, offered: Mapping[str, tuple[int, ...]], design: Design, *, exact: bool
) -> list[tuple[PricedLayer, Widths]]:
    """Return the pairs of widths to measure, layer by layer."""
    crossed = [layer for layer in found.resizable if len(layer.sides) == 2]
    count = sum(math.prod(map(len, _ends(layer, offered))) for layer in crossed)
    wanted: list[tuple[PricedLayer, Widths]] = []
    for layer in found.resizable:
        ins, outs = _ends(layer, offered)
        if len(layer.sides) == 2 and count <= design.pairs:
            pairs = {(a, b) for a in ins for b in outs}
        else:
            pairs = {(a, b) for a in anchors(ins) for b in anchors(outs)}
            if layer.sides == ("both",):
                pairs = {layer.widths}
            if not exact:
                lines = [(side, layer.group_at(side)) for side in layer.sides]
                pairs |= {layer.at(side, w) for side, g in lines if g for w in offered[g]}
        wanted += [(layer, pair) for pair in sorted(pairs)]
    return wanted


def anchors(widths: Sequence[int]) -> tuple[int, ...]:
    """Return the narrowest, the middle and the widest."""
    last = len(widths) - 1
    return tuple(
        widths[k] for k in sorted({round(i * last / (ANCHORS - 1)) for i in range(ANCHORS)})
    )


def _prices(
    layer: PricedLayer,
    curves: Curves,
    offered: Mapping[str, tuple[int, ...]],
    known: Mapping[tuple[str, int, int], float],
) -> dict[Widths, tuple[float, Basis]]:
    """Return the price of a layer at all pairs of offered widths, and what each rests on."""
    ins, outs = _ends(layer, offered)

    def on_line(side: Side, width: int) -> tuple[float, Basis]:
        cost = known.get((layer.name, *layer.at(side, width)))
        if cost is not None:
            return cost, "measured"
        return curves.curve(layer.name, side).at(width), "interpolated"

    if len(layer.sides) == 1:
        side = layer.sides[0]
        widths = outs if side == "out" else ins
        return {layer.at(side, width): on_line(side, width) for width in widths}
    rows, columns = anchors(ins), anchors(outs)
    surface = Surface(
        [on_line("in", a)[0] for a in rows],
        [on_line("out", b)[0] for b in columns],
        np.array([[known[layer.name, a, b] for b in columns] for a in rows]),
    )
    found: dict[Widths, tuple[float, Basis]] = {}
    for a in ins:
        for b in outs:
            cost = known.get((layer.name, a, b))
            if cost is not None:
                found[a, b] = cost, "measured"
            elif b == layer.width_out or a == layer.width_in:
                found[a, b] = on_line("in", a) if b == layer.width_out else on_line("out", b)
            else:
                place = on_line("in", a)[0], on_line("out", b)[0]
                found[a, b] = surface.at(*place), "estimated"
    return found
