"""Weights of a layer before and after the cut, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records import WeightPattern
from edgeprune.report import svg

SIDE, GAP, TOP = 280.0, 50.0, 46


def patterns(shown: Sequence[WeightPattern], *, title: str) -> str:
    """Return two maps a layer, to the same scale: the dense weights, and those of the slim layer.

    One cell stands for the weights between one input channel (across) and one output channel
    (down), or for several neighbours of a wide layer: the stronger, the larger their norm. In the
    dense map what was removed has the colour of the dense model.
    """
    parts: list[str] = []
    top = 0.0
    for pattern in shown:
        (rows, columns), (slim_rows, slim_columns) = pattern.dense_shape, pattern.slim_shape
        unit = SIDE / max(rows, columns)
        times = "\N{MULTIPLICATION SIGN}"
        name = f"{pattern.layer}: {rows} {times} {columns}"
        parts.append(svg.text(0, top + 14, svg.shortened(name, 460), bold=True, full=name))
        parts.append(svg.text(0, top + 36, "dense, removed weights grey"))
        slim = f"slim, {slim_rows} {times} {slim_columns}, after recovery"
        parts.append(svg.text(SIDE + GAP, top + 36, slim))
        all_stay = [[True] * len(row) for row in pattern.slim]
        size, slim_size = (unit * columns, unit * rows), (unit * slim_columns, unit * slim_rows)
        parts += _map(pattern.dense, pattern.stays, (0.0, top + TOP), size)
        parts += _map(pattern.slim, all_stay, (SIDE + GAP, top + TOP), slim_size)
        top += TOP + unit * rows + 30
    return svg.chart(title, max(40.0, top - 20), parts)


def _map(
    levels: Sequence[Sequence[int]],
    stays: Sequence[Sequence[bool]],
    origin: tuple[float, float],
    size: tuple[float, float],
) -> list[str]:
    """Return the cells of a map, one path for each shade and colour, equal neighbours joined."""
    wide, high = size[0] / len(levels[0]), size[1] / len(levels)
    cells: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
    for r, (row, kept) in enumerate(zip(levels, stays, strict=True)):
        looks = [
            (svg.SLIM if stay else svg.DENSE, 1 + level)
            for level, stay in zip(row, kept, strict=True)
        ]
        start = 0
        for c in range(1, len(looks) + 1):
            if c == len(looks) or looks[c] != looks[start]:
                at = (origin[0] + wide * start, origin[1] + high * r)
                cells.setdefault(looks[start], []).append((*at, wide * (c - start), high))
                start = c
    return [
        svg.squares(found, colour, level / 11) for (colour, level), found in sorted(cells.items())
    ]
