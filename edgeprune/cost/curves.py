"""How much to measure on a device, and what measuring single widths of layers brought back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeprune.cost.layers import Layers
from edgeprune.cost.probes import Probes
from edgeprune.cost.staircase import Curve
from edgeprune.records import Kernels, PricedLayer, Side, Stair

Line = tuple[str, Side]


@dataclass(frozen=True)
class Design:
    """How much to measure on a device.

    Args:
        window: consecutive widths by which the tile of a kind of layer is found; 0: none are
            looked for, and costs are taken to rise straight between what is measured.
        tile: largest error of a tile's pattern, as a share of the dearest width.
        bend: how far a curve's middle may lie off a straight line, as a share of the dense cost.
        pairs: up to how many pairs of offered widths are all measured; of more, few are.
        tick: what the costs of nodes are rounded to, in the device's unit; 0: they are not.
    """

    window: int
    tile: float
    bend: float
    pairs: int
    tick: float = 0.0


@dataclass
class Curves:
    """What a sweep brought back: stairs, and costs at single widths, all else dense."""

    found: Layers
    stairs: dict[Line, Stair] = field(default_factory=dict)
    kernels: dict[Line, Kernels] = field(default_factory=dict)
    points: dict[Line, dict[int, float]] = field(default_factory=dict)
    unexplained: set[Line] = field(default_factory=set)
    _curves: dict[Line, Curve] = field(default_factory=dict)

    def curve(self, layer: str, side: Side) -> Curve:
        """Return the cost of a layer over the width on one side."""
        points = self.points[layer, side]
        known = self._curves.get((layer, side))
        if known is None or len(known.points) != len(points):
            known = Curve(dict(points), self.stairs[layer, side], self.rule(layer, side))
            self._curves[layer, side] = known
        return known

    def rule(self, layer: str, side: Side) -> Kernels:
        """Return which kernel runs which width on one side of a layer."""
        return self.kernels.get((layer, side), Kernels())

    def measured(self) -> dict[tuple[str, int, int], float]:
        """(layer, width in, width out) -> cost, of all that was measured."""
        layers = {layer.name: layer for layer in self.found.resizable}
        return {
            (name, *layers[name].at(side, width)): cost
            for (name, side), points in self.points.items()
            for width, cost in points.items()
        }

    def lines(self, group: str) -> list[tuple[PricedLayer, Side]]:
        """Return the layers that a group touches, and on which side."""
        return [
            (layer, side)
            for layer in self.found.resizable
            for side in layer.sides
            if layer.group_at(side) == group
        ]

    def cost(self, group: str, width: int) -> float:
        """Return the cost of all layers that a group of `width` touches, all else dense."""
        return sum(self.curve(layer.name, side).at(width) for layer, side in self.lines(group))

    def take(
        self, probes: Probes, wanted: Sequence[tuple[PricedLayer, Side, int]], **options: object
    ) -> None:
        """Measure layers at single widths; of what is measured anew the lower cost counts."""
        templates = self.found.templates
        pairs = [(templates[layer.name], layer.at(side, w)) for layer, side, w in wanted]
        probes.take(pairs, **options)  # type: ignore[arg-type]
        for (layer, side, width), (template, pair) in zip(wanted, pairs, strict=True):
            line = self.points.setdefault((layer.name, side), {})
            cost = probes.price(template, pair)
            line[width] = min(cost, line.get(width, cost))
