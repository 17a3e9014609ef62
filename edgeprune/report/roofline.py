"""The roofline of a device with the layers of a model below it, as inline SVG.

Williams, Waterman and Patterson 2009, CACM 52(4): operations a second against operations for each
byte that has to be moved, both on logarithmic scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeprune.records import LayerProfile, ModelProfile
from edgeprune.report import figures, svg

LEFT, TOP, HEIGHT, RIGHT = 64, 24, 300, 24
NAMED = 6  # layers that bear their name
ROW = 13  # height of a text
RISES = sorted(
    (ROW * step for step in range(-12, 13)), key=abs
)  # nearest first, above before below
Box = tuple[float, float, float, float]  # left, top, right, bottom


def roofline(profile: ModelProfile, *, title: str) -> str:
    """Return the chart, or "" where no peaks were measured or no layer counts operations."""
    layers = [layer for layer in profile.layers if layer.macs and layer.flops_per_second]
    if profile.peaks is None or not layers:
        return ""
    peak, bandwidths = profile.peaks.flops_per_second, profile.peaks.bandwidths
    reached = [rate for layer in layers if (rate := layer.flops_per_second)]
    ridges = [peak / bandwidth.bytes_per_second for bandwidth in bandwidths]
    xs = _decades([_intensity(layer) for layer in layers] + ridges)
    ys = _decades([*reached, peak])
    span = svg.WIDTH - LEFT - RIGHT

    def across(x: float) -> float:
        return LEFT + span * (math.log10(x) - xs[0]) / (xs[1] - xs[0])

    def down(y: float) -> float:
        return TOP + HEIGHT * (1 - (math.log10(y) - ys[0]) / (ys[1] - ys[0]))

    parts, taken = _axes(xs, ys, across, down), list[Box]()
    for bandwidth in bandwidths:
        rate = bandwidth.bytes_per_second
        start = max(10.0 ** xs[0], 10.0 ** ys[0] / rate)
        parts.append(
            svg.line(across(start), down(start * rate), across(peak / rate), down(peak), svg.LIMIT)
        )
        middle = math.sqrt(start * peak / rate)
        name = f"{rate / 1e9:.0f} GB/s ({figures.size(bandwidth.working_set_bytes)})"
        at, anchor = (across(middle) - 6, down(middle * rate)), "end"
        if _box(*at, name, anchor)[0] < LEFT:  # no room above the line: below it
            at, anchor = (across(middle) + 8, at[1] + ROW), "start"
        parts.append(svg.text(*at, name, anchor))
        taken.append(_box(*at, name, anchor))
    first = across(min(ridges))
    parts.append(svg.line(first, down(peak), svg.WIDTH - RIGHT, down(peak), svg.LIMIT, thick=2))
    roof = f"{peak / 1e9:.0f} GFLOP/s"
    parts.append(svg.text(svg.WIDTH - RIGHT, down(peak) - 6, roof, "end", bold=True))
    taken.append(_box(svg.WIDTH - RIGHT, down(peak) - 6, roof, "end"))
    parts += _points(profile, layers, across, down, taken)
    return svg.chart(title, TOP + HEIGHT + 44, parts)


def _points(
    profile: ModelProfile,
    layers: Sequence[LayerProfile],
    across: svg.Scale,
    down: svg.Scale,
    taken: Sequence[Box],
) -> list[str]:
    """Return a circle for each layer, its area the layer's share of the cost; the largest named.

    Names stand where nothing is `taken`.
    """
    parts, named, whole = [], [], sum(layer.cost for layer in profile.layers)
    boxes = list(taken)
    for layer in sorted(layers, key=lambda layer: -layer.cost):
        x, y = across(_intensity(layer)), down(layer.flops_per_second or 1.0)
        radius = max(2.5, 26 * math.sqrt(layer.cost / whole))
        hint = f"{layer.name}: {figures.cost(layer.cost, profile.unit)}"
        parts.append(svg.circle(x, y, radius, svg.SLIM, hint))
        boxes.append((x - radius, y - radius, x + radius, y + radius))
        named.append((x, y, radius, layer.name))
    for x, y, radius, name in named[:NAMED]:
        parts += _name(x, y, radius, name, boxes)
    return parts


def _name(x: float, y: float, radius: float, name: str, boxes: list[Box]) -> list[str]:
    """Return the name of the circle around (x, y), as near to it as `boxes` leave room.

    Where that is not beside it, a line leads there. Where there is no room, hovering tells the
    name. What the name takes is added to `boxes`.
    """
    text = svg.shortened(name, 150)
    for rise in RISES:
        for side, anchor in ((-1, "end"), (1, "start")):
            at = x + side * (radius + 4), y + 4 + rise
            box = _box(*at, text, anchor)
            inside = box[0] >= LEFT and box[2] <= svg.WIDTH and box[1] >= TOP
            if not inside or box[3] > TOP + HEIGHT or any(_meet(box, other) for other in boxes):
                continue
            boxes.append(box)
            label = svg.text(*at, text, anchor, full=name)
            if abs(rise) <= radius:
                return [label]
            edge = y + math.copysign(radius, rise)
            return [svg.line(x, edge, at[0] - 2 * side, at[1] - 4, svg.DENSE), label]
    return []


def _box(x: float, y: float, text: str, anchor: str) -> Box:
    """Return what a text at (x, y) takes."""
    width = svg.CHARACTER * len(text)
    left = x - width if anchor == "end" else x
    return left, y - ROW + 3, left + width, y + 3


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _axes(
    xs: tuple[int, int], ys: tuple[int, int], across: svg.Scale, down: svg.Scale
) -> list[str]:
    parts = []
    for power in range(xs[0], xs[1] + 1):
        x = across(10.0**power)
        parts.append(svg.line(x, TOP, x, TOP + HEIGHT, svg.GRID))
        parts.append(svg.text(x, TOP + HEIGHT + 16, f"{10.0**power:g}", "middle"))
    for power in range(ys[0], ys[1] + 1):
        y = down(10.0**power)
        parts.append(svg.line(LEFT, y, svg.WIDTH - RIGHT, y, svg.GRID))
        parts.append(svg.text(LEFT - 6, y + 4, f"{10.0 ** (power - 9):g}", "end"))
    parts.append(svg.text(LEFT, 14, "GFLOP/s"))
    x = svg.WIDTH - RIGHT
    parts.append(svg.text(x, TOP + HEIGHT + 34, "operations for each byte moved", "end"))
    return parts


def _intensity(layer: LayerProfile) -> float:
    return 2 * layer.macs / max(1, layer.moved_bytes)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten that hold all values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)
