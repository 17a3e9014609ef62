"""Changes of memory layout between layers whose kernels do not agree on it, and what they part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgeprune.cost.layers import Layers
from edgeprune.cost.probes import Probes
from edgeprune.export.fragments import KEEPS_CHANNELS, Template, template
from edgeprune.export.segments import Graph, Segment
from edgeprune.records import Border, CostTable, Joint, PricedLayer, Rules, Sum, kernels_at

Pair = tuple[int, int]


def find_borders(
    probes: Probes, templates: Mapping[str, Template], pairs: Iterable[tuple[PricedLayer, Pair]],
    rules: Rules,
) -> tuple[Border, ...]:  # fmt: skip
    """Return what changes of layout cost at the borders of layers, by the kernels that run them.

    Of all `pairs` that were measured the narrowest and the widest count. Layers that never change
    the layout have no borders.
    """
    before: dict[tuple[str, Pair], dict[int, float]] = {}
    after: dict[tuple[str, Pair], dict[int, float]] = {}
    changing = set()
    for layer, (a, b) in pairs:
        cost = probes.of(templates[layer.name], (a, b))
        key = layer.name, kernels_at(rules, layer, (a, b))
        for costs, width, one in ((before, a, cost.before), (after, b, cost.after)):
            found = costs.setdefault(key, {})
            found[width] = min(one, found.get(width, one))
            if one > 0.0:
                changing.add(layer.name)

    def ends(costs: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
        return tuple((width, costs[width]) for width in sorted({min(costs), max(costs)}))

    return tuple(
        Border(layer=name, kernels=kernels, before=ends(before[key]), after=ends(after[key]))
        for key in sorted(before)
        for name, kernels in [key]
        if name in changing
    )


def find_joints(graph: Graph, borders: Sequence[Border]) -> tuple[Joint, ...]:
    """Return who reads what each layer with borders writes.

    Layers without borders that keep the channels (pooling, activations, sums) run in either layout:
    who reads what they write is looked for behind them.
    """
    changing = {border.layer for border in borders}
    joints = []
    for segment in graph.segments:
        if segment.name not in changing:
            continue
        tensors, readers = [segment.output], []
        for tensor in tensors:
            for other in graph.segments:
                if tensor not in (*other.inputs, *other.addends):
                    continue
                if other.name in changing:
                    readers.append((other.name, tensor in other.addends))
                elif other.operator in KEEPS_CHANNELS and other.output not in tensors:
                    tensors.append(other.output)
        if readers:
            joints.append(Joint(writer=segment.name, readers=tuple(readers)))
    return tuple(joints)


def find_sums(
    probes: Probes, graph: Graph, found: Layers, joints: Sequence[Joint],
    offered: Mapping[str, Sequence[int]],
) -> tuple[Sum, ...]:  # fmt: skip
    """Measure what sums at joints cost by themselves, at the narrowest and widest widths offered.

    With an activation behind it, if there is one.
    """
    hosts = {name for joint in joints for name, added in joint.readers if added}
    groups = {layer.name: layer.group_out for layer in found.resizable}
    shapes: dict[str, tuple[Template, list[int]]] = {}
    for segment in graph.segments:
        group = groups.get(segment.name) if segment.name in hosts else None
        shape = _sum_of(graph, segment) if group else None
        if group and shape and shape.width_out == offered[group][-1]:
            shapes[segment.name] = shape, sorted({offered[group][0], offered[group][-1]})
    probes.take([(shape, (w, w)) for shape, widths in shapes.values() for w in widths])
    return tuple(
        Sum(layer=name, costs=tuple((w, probes.price(shape, (w, w))) for w in widths))
        for name, (shape, widths) in shapes.items()
    )


def _sum_of(graph: Graph, segment: Segment) -> Template | None:
    """Return the sum fused into `segment`, with all that follows, as a layer of its own."""
    for place, node in enumerate(segment.nodes):
        if not set(node.input) & set(segment.addends):
            continue
        inputs = [name for name in node.input if name in graph.shapes]
        alone = replace(
            segment,
            name=f"{segment.name} sum",
            operator=node.op_type,
            nodes=segment.nodes[place:],
            inputs=inputs,
            addends=[],
            input_shape=graph.shapes[inputs[0]],
        )
        return template(graph, alone)
    return None


@dataclass(frozen=True)
class JointCosts:
    """Prices the changes of layout in a whole plan, and sums that are not fused.

    A layer's probe shows whether its kernel reads and writes another layout than that of the file,
    since the runtime then changes it at the borders. A sum is fused into a layer that writes the
    other layout if its addends are there in that layout too; else it runs by itself in the file's,
    and what the layer writes is changed back before it. What a layer, with its sum, writes in the
    other layout is changed back where a reader takes the file's; what it writes in the file's is
    changed once for all readers that take the other.
    """

    table: CostTable

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return what they cost more than in the dense model, in the device's unit."""
        return self._total(widths) - self._dense

    def _total(self, widths: Mapping[str, int]) -> float:
        other: dict[str, bool] = {}  # whether a layer, with its sum, writes the other layout

        def writes_other(name: str) -> bool:
            if name not in other:
                addends = self._addends.get(name, ())
                other[name] = self._border(name, widths)[1] > 0 and all(map(writes_other, addends))
            return other[name]

        total = 0.0
        for joint in self.table.joints:
            before = [self._border(name, widths)[0] for name, added in joint.readers if not added]
            fused = [writes_other(name) for name, added in joint.readers if added]
            if not writes_other(joint.writer):
                total += max(before, default=0.0)
            elif not all(before) or not all(fused):
                total += self._border(joint.writer, widths)[1]
        for name in self._addends:
            if not writes_other(name):
                total += self._border(name, widths)[1]
                if name in self._sums:
                    total += _between(self._sums[name], self._layers[name].widths_of(widths)[1])
        return total

    def _border(self, name: str, widths: Mapping[str, int]) -> tuple[float, float]:
        """Return the cost of the changes before and after a layer; 0 where there is none."""
        layer = self._layers[name]
        a, b = layer.widths_of(widths)
        found = self._borders.get((name, kernels_at(self.table.rules, layer, (a, b))))
        if found is None:
            return 0.0, 0.0
        return _between(found.before, a), _between(found.after, b)

    @cached_property
    def _addends(self) -> dict[str, list[str]]:
        """Layer with a sum -> the layers that write what is added."""
        found: dict[str, list[str]] = {}
        for joint in self.table.joints:
            for name, added in joint.readers:
                if added:
                    found.setdefault(name, []).append(joint.writer)
        return found

    @cached_property
    def _sums(self) -> dict[str, tuple[tuple[int, float], ...]]:
        return {one.layer: one.costs for one in self.table.sums}

    @cached_property
    def _dense(self) -> float:
        return self._total({})

    @cached_property
    def _layers(self) -> dict[str, PricedLayer]:
        return {layer.name: layer for layer in self.table.layers}

    @cached_property
    def _borders(self) -> dict[tuple[str, Pair], Border]:
        return {(border.layer, border.kernels): border for border in self.table.borders}


def _between(ends: Sequence[tuple[int, float]], width: int) -> float:
    """Return the cost at `width` on the line between the `ends`."""
    widths, costs = [end[0] for end in ends], [end[1] for end in ends]
    return float(np.interp(width, widths, costs))
