"""The groups of a model and the layers between them, as inline SVG."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.records import ChannelGroup
from edgeprune.report import svg

ROW, TOP, LANE = 22, 48, 26
CUT, WHOLE, ALONE = "cut", "kept whole", "left alone: no prices"
STYLES = {CUT: (svg.SLIM, ""), WHOLE: (svg.DENSE, ""), ALONE: (svg.LIMIT, "2 4")}


@dataclass(frozen=True)
class Lane:
    """A group as a vertical line: its column, and the first and last row that touch it."""

    group: ChannelGroup
    column: int
    first: int
    last: int


def dependency_graph(
    groups: Sequence[ChannelGroup],
    layers: Sequence[str],
    planned: Mapping[str, int],
    *,
    title: str,
    alone: Collection[str] = (),
) -> str:
    """Return a line a group, from the layer that makes its channels to the last that reads them.

    Layers stand in the order in which they run. A layer is a row: a ring on the line of the group
    that it reads, an arrow to the line of the group that it writes. Layers that write to the same
    line (a skip connection) must lose the same channels. Layers that no group touches are left out.

    Args:
        groups: the groups that can be cut.
        layers: names of layers in the order in which they run.
        planned: group -> width in the plan.
        title: of the chart.
        alone: names of groups without prices, which no plan can cut.
    """
    lanes, rows = arrange(groups, layers)
    left = svg.label_width(rows)
    columns = 1 + max((lane.column for lane in lanes), default=-1)
    lane_room = min(LANE, (svg.WIDTH - left - 230) / max(1, columns + 1))

    def across(column: float) -> float:
        return left + lane_room * (column + 1)

    def down(row: float) -> float:
        return TOP + ROW * row

    fates = {group.name: _fate(group, planned, alone) for group in groups}
    parts: list[str] = []
    for lane in lanes:
        x = across(lane.column)
        colour, dash = STYLES[fates[lane.group.name]]
        first, last = down(lane.first), down(lane.last)
        parts.append(svg.line(x, first, x, last, colour, thick=3, dash=dash))
    place = {layer: row for row, layer in enumerate(rows)}
    for row, layer in enumerate(rows):
        y = down(row)
        parts.append(svg.label(left - 12, y + 4, layer, left - 16))
        reads = [lane for lane in lanes if layer in lane.group.inputs]
        writes = [lane for lane in lanes if layer in lane.group.outputs]
        start = across(reads[0].column) if reads else left - 4
        end = across(writes[0].column) if writes else across(columns)
        if reads or writes:
            parts.append(svg.line(start, y, end, y, svg.TEXT, thick=1.2))
            parts.append(svg.arrow(end, y, svg.TEXT, back=end < start))
        for lane in lanes:
            x = across(lane.column)
            if layer in lane.group.inputs:
                parts.append(svg.disc(x, y, 4, svg.TEXT, hollow=True))
            elif layer in lane.group.carriers:
                parts.append(svg.disc(x, y, 3, svg.TEXT))
    edge = across(columns) + 12
    for lane in lanes:
        y = down(min(place[layer] for layer in lane.group.outputs if layer in place))
        after = planned.get(lane.group.name, lane.group.width)
        name = svg.shortened(lane.group.name, svg.WIDTH - edge - 16 - 13 * svg.CHARACTER)
        told = "left alone" if fates[lane.group.name] == ALONE else f"\N{RIGHTWARDS ARROW} {after}"
        text = f"{name}: {lane.group.width} {told}"
        parts.append(svg.line(edge, y, edge + 10, y, svg.GRID))
        parts.append(svg.text(edge + 16, y + 4, text, full=lane.group.name))
    key = "one line a group; \N{WHITE CIRCLE} reads it, \N{RIGHTWARDS ARROW} writes it"
    parts.append(svg.text(left, 12, key))
    parts += _legend(list(fates.values()), left, 30)
    return svg.chart(title, TOP + ROW * len(rows), parts)


def _fate(group: ChannelGroup, planned: Mapping[str, int], alone: Collection[str]) -> str:
    if group.name in alone:
        return ALONE
    return CUT if planned.get(group.name, group.width) < group.width else WHOLE


def _legend(fates: Sequence[str], left: float, y: float) -> list[str]:
    """Return what the lines say of their groups, as far as there are such lines."""
    parts, x = [], left
    for name, (colour, dash) in STYLES.items():
        if name in fates:
            parts.append(svg.line(x, y - 4, x + 20, y - 4, colour, thick=3, dash=dash))
            parts.append(svg.text(x + 26, y, name))
            x += 26 + svg.CHARACTER * len(name) + 20
    return parts


def arrange(
    groups: Sequence[ChannelGroup], layers: Sequence[str]
) -> tuple[tuple[Lane, ...], tuple[str, ...]]:
    """Return the lanes of the groups, and the layers that touch one in the order they run.

    A column is used again once the lane in it has ended.
    """
    touched = {
        name for group in groups for name in (*group.outputs, *group.inputs, *group.carriers)
    }
    known = [name for name in layers if name in touched]
    weighted = [name for g in groups for name in (*g.outputs, *g.inputs) if name not in known]
    rows = tuple(dict.fromkeys([*known, *weighted]))
    place = {name: row for row, name in enumerate(rows)}
    spans = []
    for group in groups:
        at = [place[n] for n in (*group.outputs, *group.inputs, *group.carriers) if n in place]
        spans.append((min(at), max(at), group))
    lanes: list[Lane] = []
    ends: list[int] = []
    for first, last, group in sorted(spans, key=lambda span: span[:2]):
        free = next((c for c, end in enumerate(ends) if end < first), len(ends))
        ends[free : free + 1] = [last]
        lanes.append(Lane(group, free, first, last))
    return tuple(lanes), rows
