"""The sensitivity of all groups as one heat map, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgeprune.records import SensitivityCurve
from edgeprune.report import svg

ROW, TOP, RIGHT = 26, 24, 60
FAINTEST = 0.08  # opacity of a cell whose loss does not rise


def heatmap(curves: Sequence[SensitivityCurve], planned: Mapping[str, int], *, title: str) -> str:
    """Return one row a group: how much the loss rises at each width, by strength of colour.

    A cell reaches from the next narrower width to its own, so that the axis is the share of
    channels kept. Shades follow the square root of the increase; the strongest is the largest of
    all rows. The width in the plan is outlined.

    Args:
        curves: one a group; a group that has several gets a row for each.
        planned: group -> width in the plan.
        title: of the chart.
    """
    rows = [curve for curve in curves if len(curve.widths) > 1]
    several = len({curve.group for curve in rows}) < len(rows)
    names = [f"{c.group}, {c.criterion}" if several else c.group for c in rows]
    left = svg.label_width(names)
    span = svg.WIDTH - left - RIGHT
    most = max((value for curve in rows for value in curve.increases), default=0.0) or 1.0
    parts: list[str] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(svg.text(left + span * share, 14, f"{100 * share:.0f} %", anchor))
    for index, (curve, name) in enumerate(zip(rows, names, strict=True)):
        top = TOP + ROW * index
        parts.append(svg.label(left - 10, top + 16, name, left - 14))
        dense = curve.widths[-1]
        chosen = planned.get(curve.group)
        outline = ""
        for before, width, value in zip(
            (0, *curve.widths), curve.widths, curve.increases, strict=False
        ):
            x, end = left + span * before / dense, left + span * width / dense
            shade = FAINTEST + (1 - FAINTEST) * math.sqrt(max(0.0, value) / most)
            hint = f"{curve.group} at {width} of {dense}: loss {value:+.4g}"
            parts.append(svg.cell(x, top, end - x, ROW - 4, svg.LIMIT, shade, hint))
            if width == chosen:
                outline = svg.frame(x, top, end - x, ROW - 4, svg.TEXT)
        parts.append(outline)
        worst = max(curve.increases)
        parts.append(svg.text(svg.WIDTH - RIGHT + 8, top + 16, f"{worst:.2g}"))
    return svg.chart(title, TOP + ROW * len(rows) + 4, parts)
