"""Accuracy against cost of many models, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.report import svg
from edgeprune.report.charts import ticks

LEFT, TOP, HEIGHT, RIGHT = 60, 26, 280, 190
GAP = 14  # between two names at the right


@dataclass(frozen=True)
class Dot:
    """One model of a method; `hint` is shown on hovering."""

    method: str
    x: float
    y: float
    hint: str = ""


def scatter(
    dots: Sequence[Dot],
    *,
    across: str,
    up: str,
    title: str,
    level: tuple[float, str] | None = None,
    percent: bool = False,
) -> str:
    """Return every model as a dot, those of one method joined from left to right.

    Several models of a method at the same x are joined through their mean. Methods differ in the
    form of their marks and lines, so that print needs no colour; their names stand at the right, at
    the height of their last mean.

    Args:
        dots: the models.
        across: name of the horizontal axis.
        up: name of the vertical axis, higher is better.
        title: of the chart.
        level: a y to compare with, and its name.
        percent: whether x is a share.
    """
    xs = ticks(min(d.x for d in dots), max(d.x for d in dots), 6) if dots else [0.0, 1.0]
    ys = (
        ticks(
            min([d.y for d in dots] + ([level[0]] if level else [])),
            max([d.y for d in dots] + ([level[0]] if level else [])),
            6,
        )
        if dots
        else [0.0, 1.0]
    )
    span = svg.WIDTH - LEFT - RIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + span * (x - xs[0]) / (xs[-1] - xs[0]),
            TOP + HEIGHT * (1 - (y - ys[0]) / (ys[-1] - ys[0])),
        )

    parts = [svg.text(LEFT, 10, up, bold=True)]
    for y in ys:
        height = place(xs[0], y)[1]
        parts.append(svg.line(LEFT, height, LEFT + span, height, svg.GRID))
        parts.append(svg.text(LEFT - 8, height + 4, f"{y:g}", "end"))
    for x in xs:
        at = place(x, ys[0])[0]
        parts.append(svg.line(at, TOP + HEIGHT, at, TOP + HEIGHT + 5, svg.GRID))
        name = f"{100 * x:.4g} %" if percent else f"{x:g}"
        parts.append(svg.text(at, TOP + HEIGHT + 20, name, "middle"))
    parts.append(svg.text(LEFT + span, TOP + HEIGHT + 38, across, "end"))
    if level is not None:
        height = place(xs[0], level[0])[1]
        parts.append(svg.line(LEFT, height, LEFT + span, height, svg.LIMIT, dash="4 3"))
        parts.append(svg.text(LEFT + 4, height - 5, level[1]))
    named: list[tuple[float, float, int, str]] = []
    for index, method in enumerate(dict.fromkeys(dot.method for dot in dots)):
        own = [dot for dot in dots if dot.method == method]
        means = [
            (x, sum(d.y for d in own if d.x == x) / sum(d.x == x for d in own))
            for x in sorted({d.x for d in own})
        ]
        colour, dash = _style(index)
        if len(means) > 1:
            parts.append(svg.path([place(*mean) for mean in means], colour, dash))
        for dot in own:
            parts.append(svg.mark(index // 2, *place(dot.x, dot.y), colour, dot.hint or method))
        named.append((place(*means[-1])[1], place(*means[-1])[0], index, method))
    parts += _names(named, LEFT + span)
    return svg.chart(title, TOP + HEIGHT + 46, parts)


def _style(index: int) -> tuple[str, str]:
    return (svg.SLIM, svg.LIMIT)[index % 2], svg.DASHES[index // 2 % len(svg.DASHES)]


def _names(named: list[tuple[float, float, int, str]], right: float) -> list[str]:
    """Return the names of the methods, apart from each other, each tied to its last mark."""
    parts: list[str] = []
    last = float(TOP - GAP)
    room = TOP + HEIGHT - GAP * (len(named) - 1)
    for position, (height, x, index, method) in enumerate(sorted(named)):
        at = max(last + GAP, min(height, room + GAP * position))
        last = at
        colour = _style(index)[0]
        parts.append(svg.line(x + 6, height, right + 14, at, svg.GRID))
        parts.append(svg.mark(index // 2, right + 22, at, colour, method))
        parts.append(svg.text(right + 32, at + 4, svg.shortened(method, RIGHT - 36), full=method))
    return parts
