"""The cost table of a model on a device: a price for every layer at every pair of widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.cost.kept import PriceStore
from edgeprune.cost.probes import Probes
from edgeprune.cost.staircase import grid, worth_offering
from edgeprune.devices.protocol import Device
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.fragments import KEEPS_CHANNELS, Template, template
from edgeprune.export.onnx_graph import RECURRENT
from edgeprune.export.precision import Precision
from edgeprune.export.segments import ANCHORS, Graph
from edgeprune.records import ChannelGroup, CostTable, ModelProfile, Price, PricedLayer

POINTS = 32  # widths of a group that are swept
EXACT_POINTS = 4  # where counting takes long
FIRMWARE_POINTS = 16  # of int8 firmware, which holds many probes at once
Report = Callable[[str, int, int], None]


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

    First each group's own widths are swept, all else dense, and the stairs are read off; then all
    pairs of the offered widths are priced in several fresh processes. Layers that no group touches,
    or whose shape logic is unknown, keep their dense cost of `profile` as a fixed price; where the
    device compiled them into one piece with others, they are priced alone like the rest. Groups
    that feed a layer which cannot be priced at other widths (a convolution behind a concatenation)
    are left alone, and `warn` is told. Layers go to the device in the given `precision`. No width
    below the `floors` (group -> width) is offered. The folder `prices` keeps what is measured for
    later jobs (None: nothing is kept).

    Raises:
        UnsupportedModelError: no group is left.
    """
    groups, layers, templates = _priceable(graph, groups, warn)
    precision = precision or Precision()
    where = profile.environment
    store = PriceStore(prices, device.spec.name, precision.name, where) if prices else None
    probes = Probes(device, seed, precision, store, where)
    points = _points(device, probes.precision)
    least = floors or {}
    grids = {
        group.name: tuple(
            width
            for width in grid(group.width, points, group.divisor)
            if width >= max(group.narrowest, least.get(group.name, 0))
        )
        for group in groups
    }
    sweep = _sweep(layers, templates, grids)
    probes.take(
        [(templates[layer], pair) for layer, pair in sweep],
        progress=lambda done, total: report("stairs", done, total),
    )
    origin = device.spec.figure

    def priced(layer: str, pair: tuple[int, int]) -> Price:
        cost = probes.price(templates[layer], pair)
        return Price(layer=layer, width_in=pair[0], width_out=pair[1], cost=cost, origin=origin)

    swept = tuple(priced(layer, pair) for layer, pair in dict.fromkeys(sweep))
    offered = {
        group.name: worth_offering(
            grids[group.name],
            [
                _group_cost(group.name, width, layers, templates, probes)
                for width in grids[group.name]
            ],
        )
        for group in groups
    }
    pairs = [
        (layer, pair)
        for layer in layers
        if layer.name in templates
        for pair in _pairs(layer, offered)
    ]
    fixed, costs = _fixed(graph, layers, templates, profile), profile.costs
    probes.take(
        [(templates[layer.name], pair) for layer, pair in pairs]
        + [(shape, shape.widths) for shape in fixed.values()],
        processes=processes,
        rounds=15,
        again=True,
        progress=lambda done, total: report("prices", done, total),
    )
    listed = [priced(layer.name, pair) for layer, pair in pairs]
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
        for layer in layers
        if layer.name not in templates
    ]
    dense = {(layer.name): (layer.width_in, layer.width_out) for layer in layers}
    total = sum(p.cost for p in listed if dense[p.layer] == (p.width_in, p.width_out))
    return CostTable(
        device=device.spec.name,
        kind=device.spec.figure,
        unit=device.spec.unit,
        dense_cost=profile.total,
        scale=profile.total / total,
        layers=tuple(layers),
        widths=offered,
        prices=tuple(listed),
        swept=swept,
        probes=probes.measured,
        environment=profile.environment,
    )


def _points(device: Device, precision: Precision) -> int:
    """Return how many widths of a group to sweep on `device`."""
    if not device.spec.exact:
        return POINTS
    joined = device.spec.runtime == "firmware" and precision.name == "int8"
    return FIRMWARE_POINTS if joined else EXACT_POINTS


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
    """Return the scaled sum of the prices of all layers when the groups have these `widths`.

    Raises:
        UnsupportedModelError: a layer has no price there.
    """
    price = PriceList.of(table)
    total = 0.0
    for layer in table.layers:
        width_in = widths.get(layer.group_in, layer.width_in) if layer.group_in else layer.width_in
        width_out = (
            widths.get(layer.group_out, layer.width_out) if layer.group_out else layer.width_out
        )
        total += price(layer.name, width_in, width_out)
    return table.scale * total


def _priceable(
    graph: Graph, groups: Sequence[ChannelGroup], warn: Callable[[str], None]
) -> tuple[Sequence[ChannelGroup], list[PricedLayer], dict[str, Template]]:
    """Return the groups that can be priced, with what `_layers` returns of them."""
    while True:
        try:
            return groups, *_layers(graph, groups)
        except _UnpricedError as stuck:
            left = [group for group in groups if group.name not in stuck.groups]
            names = ", ".join(sorted(stuck.groups))
            if not left or len(left) == len(groups):
                raise UnsupportedModelError(
                    f"{stuck.what}, and without {names} no group of channels can be cut"
                ) from None
            warn(f"{stuck.what}: {names} {'is' if len(stuck.groups) == 1 else 'are'} left alone")
            groups = left


class _UnpricedError(Exception):
    """A layer that cannot be priced at other widths, and the groups that it keeps from that."""

    def __init__(self, what: str, groups: set[str]) -> None:
        super().__init__(what)
        self.what, self.groups = what, groups


def _layers(
    graph: Graph, groups: Sequence[ChannelGroup]
) -> tuple[list[PricedLayer], dict[str, Template]]:
    """Return all layers with the groups on their two sides, and templates of the resizable.

    Raises:
        _UnpricedError: a layer cannot be priced at other widths.
    """
    feeders: dict[str, list[ChannelGroup]] = {}
    for group in groups:
        for name in group.inputs:
            feeders.setdefault(name, []).append(group)
    feeding = {name: found[0] for name, found in feeders.items()}
    fed = {layer: g for g in groups for layer in g.outputs}
    carried = {layer: g for g in groups for layer in g.carriers}
    tensor_group: dict[str, ChannelGroup] = {}
    layers: list[PricedLayer] = []
    templates: dict[str, Template] = {}
    for segment in graph.segments:
        group_in = feeding.get(segment.name) or carried.get(segment.name)
        group_out = fed.get(segment.name) or carried.get(segment.name)
        if segment.operator not in ANCHORS and segment.inputs:
            group_in = tensor_group.get(segment.inputs[0])
            group_out = group_in
        stacked = segment.operator in RECURRENT and fed.get(segment.name.partition("/")[0])
        if stacked and group_out is None:  # a further layer of a stack reads what it writes
            group_in = group_out = stacked
        if group_out is not None:
            tensor_group[segment.output] = group_out
        shape = template(graph, segment, group_in.width if group_in else None)
        touched = group_in is not None or group_out is not None
        resizable = shape.resizable and touched and _fits(shape, group_in, group_out)
        if touched and not resizable and segment.macs:
            sources = {g.name for g in feeders.get(segment.name, ()) or (group_in, group_out) if g}
            raise _UnpricedError(
                f"layer {segment.name} ({segment.operator}, {segment.input_shape} -> "
                f"{segment.output_shape}) cannot be priced at other widths",
                sources,
            )
        layers.append(
            PricedLayer(
                name=segment.name,
                operator=segment.operator,
                group_in=group_in.name if group_in and resizable else None,
                group_out=group_out.name if group_out and resizable else None,
                width_in=shape.width_in,
                width_out=shape.width_out,
            )
        )
        if resizable:
            templates[segment.name] = shape
    return layers, templates


def _fits(shape: Template, group_in: ChannelGroup | None, group_out: ChannelGroup | None) -> bool:
    """Whether the layer's channels are exactly the groups' (a concatenation has more)."""
    if shape.segment.operator in KEEPS_CHANNELS:
        return group_in is not None and shape.width_in == group_in.width == shape.width_out
    return (group_in is None or shape.width_in == group_in.width) and (
        group_out is None or shape.width_out == group_out.width
    )


def _fixed(
    graph: Graph,
    layers: Sequence[PricedLayer],
    templates: Mapping[str, Template],
    profile: ModelProfile,
) -> dict[str, Template]:
    """Return, of the layers whose widths stay, those without a cost of their own in the profile."""
    segments = {segment.name: segment for segment in graph.segments}
    return {
        layer.name: template(graph, segments[layer.name])
        for layer in layers
        if layer.name not in templates and layer.name not in profile.costs
    }


def _sweep(
    layers: Sequence[PricedLayer],
    templates: Mapping[str, Template],
    grids: Mapping[str, Sequence[int]],
) -> list[tuple[str, tuple[int, int]]]:
    return [
        (layer.name, _at(layer, group, width))
        for group, widths in grids.items()
        for width in widths
        for layer in layers
        if layer.name in templates and group in (layer.group_in, layer.group_out)
    ]


def _at(layer: PricedLayer, group: str, width: int) -> tuple[int, int]:
    """Return the widths of `layer` when only `group` has `width`."""
    return (
        width if layer.group_in == group else layer.width_in,
        width if layer.group_out == group else layer.width_out,
    )


def _group_cost(
    group: str,
    width: int,
    layers: Sequence[PricedLayer],
    templates: Mapping[str, Template],
    probes: Probes,
) -> float:
    return sum(
        probes.price(templates[layer.name], _at(layer, group, width))
        for layer in layers
        if layer.name in templates and group in (layer.group_in, layer.group_out)
    )


def _pairs(layer: PricedLayer, offered: Mapping[str, tuple[int, ...]]) -> list[tuple[int, int]]:
    ins = offered[layer.group_in] if layer.group_in else (layer.width_in,)
    outs = offered[layer.group_out] if layer.group_out else (layer.width_out,)
    if layer.group_in is not None and layer.group_in == layer.group_out:
        return [(width, width) for width in ins]
    return [(a, b) for a in ins for b in outs]
