"""Which layers of a model have which groups on their sides, and which can be resized."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.errors import UnsupportedModelError
from edgeprune.export.fragments import KEEPS_CHANNELS, Template, template
from edgeprune.export.onnx_graph import RECURRENT
from edgeprune.export.segments import ANCHORS, Graph, Segment
from edgeprune.records import ChannelGroup, PricedLayer


@dataclass(frozen=True)
class Layers:
    """The groups that can be priced, all layers with their groups, templates of the resizable."""

    groups: Sequence[ChannelGroup]
    layers: Sequence[PricedLayer]
    templates: Mapping[str, Template]

    @property
    def resizable(self) -> list[PricedLayer]:
        """The layers whose widths change."""
        return [layer for layer in self.layers if layer.name in self.templates]


def priceable(graph: Graph, groups: Sequence[ChannelGroup], warn: Callable[[str], None]) -> Layers:
    """Return which layers of `graph` have which groups on their sides, and how to resize them.

    Groups that feed a layer which cannot be priced at other widths (a convolution or a linear layer
    behind a concatenation) are left alone, and `warn` is told.

    Raises:
        UnsupportedModelError: no group is left.
    """
    while True:
        try:
            return Layers(groups, *_layers(graph, groups))
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
        resizable = shape.resizable and touched and _fits(shape, group_in, group_out)
        resizable &= not sources or _feeds_alone(sources, layer, shape)
        if touched and not resizable and segment.macs:
            raise _UnpricedError(
                f"layer {segment.name} ({segment.operator}, {segment.input_shape} -> "
                f"{segment.output_shape}) cannot be priced at other widths",
                {group.name for group in sources or (group_in, group_out) if group},
            )
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


def _fits(shape: Template, group_in: ChannelGroup | None, group_out: ChannelGroup | None) -> bool:
    """Whether the layer's channels are exactly the groups' (a concatenation has more)."""
    if shape.segment.operator in KEEPS_CHANNELS:
        return group_in is not None and shape.width_in == group_in.width == shape.width_out
    return (group_in is None or shape.width_in == group_in.width) and (
        group_out is None or shape.width_out == group_out.width
    )


def _feeds_alone(sources: Sequence[ChannelGroup], layer: str, shape: Template) -> bool:
    """Whether one group feeds the whole input of `layer`: none beside it, and no other features.

    The width of an input that several groups feed does not follow that of one of them.
    """
    return len(sources) == 1 and sources[0].entries_in(layer) == shape.width_in * shape.flat
