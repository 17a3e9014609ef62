"""Repeated results of several methods, each a mark on its row, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeprune.report import svg
from edgeprune.report.charts import ticks

ROW, TOP, RIGHT = 30, 12, 116


def strip(rows: Mapping[str, Sequence[float]], *, across: str, title: str) -> str:
    """Return a row a method: a ring for each result, a stroke at their mean, which is told."""
    left = svg.label_width(list(rows))
    values = [value for found in rows.values() for value in found]
    scale = ticks(min(values), max(values), 6) if values else [0.0, 1.0]
    span = svg.WIDTH - left - RIGHT
    bottom = TOP + ROW * len(rows)

    def place(value: float) -> float:
        return left + span * (value - scale[0]) / (scale[-1] - scale[0])

    parts: list[str] = []
    for tick in scale:
        parts.append(svg.line(place(tick), TOP, place(tick), bottom, svg.GRID))
        parts.append(svg.text(place(tick), bottom + 16, f"{tick:g}", "middle"))
    parts.append(svg.text(left + span, bottom + 34, across, "end"))
    for index, (name, found) in enumerate(rows.items()):
        y = TOP + ROW * (index + 0.5)
        mean = sum(found) / len(found)
        parts.append(svg.label(left - 12, y + 4, name, left - 16))
        parts.append(svg.line(place(mean), y - 11, place(mean), y + 11, svg.LIMIT, thick=2))
        parts += [svg.mark(4, place(value), y, svg.SLIM, f"{name}: {value:.4g}") for value in found]
        parts.append(svg.text(left + span + 12, y + 4, f"mean {mean:.4g}"))
    return svg.chart(title, bottom + 42, parts)
