"""Which layers of a model have which groups on their sides, and which can be resized."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.errors import UnsupportedModelError
from edgeprune.export.fragments import KEEPS_CHANNELS, Template, template
from edgeprune.export.onnx_graph import RECURRENT
from edgeprune.export.segments import ANCHORS, Graph, Segment
from edgeprune.records import ChannelGroup, PricedLayer, SkippedGroup


@dataclass(frozen=True)
class Layers:
    """The groups that can be priced, all layers with their groups, templates of the resizable.

    `skipped` are the groups that cannot be priced, each with the layer that prevents it.
    """

    groups: Sequence[ChannelGroup]
    layers: Sequence[PricedLayer]
    templates: Mapping[str, Template]
    skipped: Sequence[SkippedGroup] = ()

    @property
    def resizable(self) -> list[PricedLayer]:
        """The layers whose widths change."""
        return [layer for layer in self.layers if layer.name in self.templates]


def priceable(graph: Graph, groups: Sequence[ChannelGroup], warn: Callable[[str], None]) -> Layers:
    """Return which layers of `graph` have which groups on their sides, and how to resize them.

    Groups whose channels are not exactly those of a layer's input or output (behind or in front of
    a concatenation or a split) are left alone, as are those of layers whose shapes are not
    understood; `warn` is told. A group on the other side of such a layer keeps its prices.

    Raises:
        UnsupportedModelError: no group is left.
    """
    skipped: list[SkippedGroup] = []
    while True:
        try:
            return Layers(groups, *_layers(graph, groups), skipped)
        except _UnpricedError as stuck:
            left = [group for group in groups if group.name not in stuck.groups]
            names = ", ".join(sorted(stuck.groups))
            if not left or len(left) == len(groups):
                raise UnsupportedModelError(
                    f"{stuck.what}, and without {names} no group of channels can be cut"
                ) from None
            warn(f"{stuck.what}: {names} {'is' if len(stuck.groups) == 1 else 'are'} left alone")
            skipped += [
                SkippedGroup(name=group.name, width=group.width, reason=stuck.what)
                for group in groups
                if group.name in stuck.groups
            ]
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
    fed = {layer: g for g in groups for layer in g.outputs}
    carried = {layer: g for g in groups for layer in g.carriers}
    tensor_group: dict[str, ChannelGroup] = {}
    layers: list[PricedLayer] = []
    templates: dict[str, Template] = {}
    calls = _calls(graph)
    for segment in graph.segments:
        layer = calls.get(segment.name, segment.name)
        sources = feeders.get(layer, [])
        group_in = sources[0] if sources else carried.get(layer)
        group_out = fed.get(layer) or carried.get(layer)
        if segment.operator not in ANCHORS and segment.inputs:
            group_in = tensor_group.get(segment.inputs[0])
            group_out, sources = group_in, []
        stacked = fed.get(segment.layer) if segment.operator in RECURRENT else None
        if stacked and tensor_group.get(segment.inputs[0]) is stacked:
            # a further layer of a stack reads what it writes
            group_in, group_out, sources = stacked, stacked, []
        if group_out is not None:
            tensor_group[segment.output] = group_out
        shape = template(graph, segment, group_in.width if group_in else None)
        touched = group_in is not None or group_out is not None
        misfit = _misfit(shape, layer, sources, group_in, group_out) if touched else None
        if misfit and segment.macs:
            why, stuck = misfit
            raise _UnpricedError(
                f"layer {segment.name} ({segment.operator}, {segment.input_shape} -> "
                f"{segment.output_shape}) cannot be priced at other widths, since {why}",
                {group.name for group in stuck},
            )
        resizable = touched and misfit is None
        counts = dict.fromkeys(("in", "hidden", ""), 0)
        for name, of in segment.weights.items():
            counts[segment.kind_of(name)] += math.prod(of)
        layers.append(
            PricedLayer(
                name=segment.name,
                operator=segment.operator,
                group_in=group_in.name if group_in and resizable else None,
                group_out=group_out.name if group_out and resizable else None,
                width_in=shape.width_in,
                width_out=shape.width_out,
                weights=sum(counts.values()),
                hidden=counts["hidden"],
                single=counts[""],
                depthwise=shape.depthwise,
            )
        )
        if resizable:
            templates[segment.name] = shape
    return layers, templates


def _calls(graph: Graph) -> dict[str, str]:
    """Return segment -> torch layer, for those that run the weights of a layer.

    A layer that is called more than once (shared towers or heads) runs as a segment a call.
    """
    weights = {s.name: _weight(s) for s in graph.segments if s.operator in ANCHORS}
    return {
        segment.name: segment.layer
        for segment in graph.segments
        if weights.get(segment.name) and weights[segment.name] == weights.get(segment.layer)
    }


def _weight(segment: Segment) -> tuple[int, ...]:
    """Return the dimensions of the weight; MatMul holds that of a linear layer transposed."""
    names = segment.nodes[0].input[1:2]
    return tuple(sorted(d for name in names for d in segment.weights.get(name, ())))


def _misfit(
    shape: Template,
    layer: str,
    sources: Sequence[ChannelGroup],
    group_in: ChannelGroup | None,
    group_out: ChannelGroup | None,
) -> tuple[str, list[ChannelGroup]] | None:
    """Return why the layer cannot be priced at other widths, and the groups at fault; None if not.

    A group at fault is one whose channels are not exactly those of its side of the layer: the width
    of that side does not follow the group's. The group on the other side may be innocent.
    """
    both = [group for group in (*(sources or (group_in,)), group_out) if group]
    if not shape.resizable:
        return "how its shapes follow widths is not known", both
    if shape.segment.operator in KEEPS_CHANNELS:
        fits = group_in is not None and shape.width_in == group_in.width == shape.width_out
        return None if fits else ("its channels are not exactly those of its group", both)
    if len(sources) > 1:
        return "its input is several groups side by side", list(sources)
    entries = shape.width_in * shape.flat
    if group_in and (
        shape.width_in != group_in.width or (sources and group_in.entries_in(layer) != entries)
    ):
        return _unlike("input", entries, group_in), [group_in]
    if group_out and shape.width_out != group_out.width:
        return _unlike("output", shape.width_out, group_out), [group_out]
    return None


def _unlike(side: str, width: int, group: ChannelGroup) -> str:
    """Say how a side of a layer, of `width` channels, differs from its group."""
    if side == "output" and width < group.width:
        return f"its output is one part ({width}) of a concatenation of {group.width} channels"
    return (
        f"its {side} of {width} channels is not exactly the {group.width} of group {group.name}, "
        "as with a concatenation or a split"
    )
