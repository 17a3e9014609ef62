"""Changes of memory layout between layers whose kernels do not agree on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeprune.cost.probes import Probes
from edgeprune.export.fragments import KEEPS_CHANNELS, Template
from edgeprune.export.segments import Graph
from edgeprune.records import Border, CostTable, Joint, PricedLayer, Rules, kernels_at

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


@dataclass(frozen=True)
class JointCosts:
    """Prices the changes of layout in a whole plan.

    A layer's probe shows whether its kernel reads and writes another layout than that of the file,
    since the runtime then changes it at the borders. What such a layer writes is changed back
    where a reader takes the file's; what another layer writes is changed once for all readers that
    take the other. A sum that is fused into a layer is read in the layout that the layer writes.
    """

    table: CostTable

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return what they cost more than in the dense model, in the device's unit."""
        return self._total(widths) - self._dense

    def _total(self, widths: Mapping[str, int]) -> float:
        total = 0.0
        for joint in self.table.joints:
            written = self._border(joint.writer, widths)[1]
            read = [self._border(name, widths)[added] for name, added in joint.readers]
            if written and not all(read):
                total += written
            elif not written:
                total += max(read)
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
