"""Charts as inline SVG: numbers in, one `<svg>` element out.

Colours come from the CSS custom properties `--chart-dense`, `--chart-slim`, `--chart-limit`,
`--chart-grid` and `--chart-track` of the page, or else from the colour of the text.
Each chart names itself in `<title>`, and states its figures as text too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.report import svg

ROW, LEGEND = 14, 22  # from one line of text to the next, of labels and of a legend


@dataclass(frozen=True)
class Bar:
    """A figure with its interval; `text` is how it reads."""

    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Pair:
    """The same thing before and after; `after` is None where it is gone."""

    label: str
    before: Bar
    after: Bar | None


@dataclass(frozen=True)
class Line:
    """A line in a panel; `points` are (x, y)."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """Lines over one pair of axes; `mark` is an x to point out, with its `mark_text`."""

    title: str
    lines: tuple[Line, ...]
    mark: float | None = None
    mark_text: str = ""


def bars(rows: Sequence[Pair], *, title: str) -> str:
    """Return horizontal bars, before above after, with whiskers for the intervals."""
    left, right = svg.label_width([row.label for row in rows]), 150
    most = max(
        (max(row.before.high, row.after.high if row.after else 0) for row in rows), default=0
    )
    span = svg.WIDTH - left - right

    def place(value: float) -> float:
        return left + span * (value / most if most else 0)

    parts: list[str] = []
    step = 36 if any(row.after for row in rows) else 22
    for index, row in enumerate(rows):
        top = 4 + step * index
        middle = top + (19 if row.after else 12)
        parts.append(svg.label(left - 10, middle, row.label, left - 14))
        parts += _bar(row.before, top + 2, place, svg.DENSE)
        if row.after is not None:
            parts += _bar(row.after, top + 17, place, svg.SLIM)
    return svg.chart(title, step * len(rows) + 6, parts)


def widths(rows: Sequence[tuple[str, int, int]], *, title: str) -> str:
    """Return one track per group, filled as far as channels stay: (group, before, after)."""
    left, right = svg.label_width([name for name, _, _ in rows]), 110
    most = max((before for _, before, _ in rows), default=1)
    span = svg.WIDTH - left - right
    parts: list[str] = []
    for index, (name, before, after) in enumerate(rows):
        top = 4 + 26 * index
        full, kept = (max(1.0, span * width / most) if width else 0.0 for width in (before, after))
        parts.append(svg.label(left - 10, top + 15, name, left - 14))
        parts.append(svg.rect(left, top + 4, full, 14, svg.TRACK, stroke=svg.DENSE))
        parts.append(svg.rect(left, top + 4, kept, 14, svg.SLIM))
        parts.append(svg.text(left + full + 8, top + 15, f"{before} \N{RIGHTWARDS ARROW} {after}"))
    return svg.chart(title, 26 * len(rows) + 6, parts)


def curves(panels: Sequence[Panel], *, title: str, columns: int = 3) -> str:
    """Return small multiples on shared axes: loss increase against width share.

    The vertical scale is that of square roots, so that small increases can be told apart.
    """
    most = max((y for panel in panels for line in panel.lines for _, y in line.points), default=0.0)
    most = most or 1.0
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    gap, left, height = 22, 40, 92
    width = (svg.WIDTH - left - gap * (columns - 1)) / columns
    styles = {name: _style(index) for index, name in enumerate(names)}
    parts, lines = _legend(styles, left, 14)
    top_of = 22 + LEGEND * lines
    for index, panel in enumerate(panels):
        x0 = left + (index % columns) * (width + gap)
        y0 = top_of + (index // columns) * (height + 52)

        def across(x: float, x0: float = x0) -> float:
            return x0 + width * x

        def down(y: float, y0: float = y0) -> float:
            return y0 + height * (1 - math.sqrt(max(0.0, y) / most))

        parts.append(
            svg.text(x0, y0 - 8, svg.shortened(panel.title, width), bold=True, full=panel.title)
        )
        for value in _root_ticks(most):
            parts.append(svg.line(x0, down(value), x0 + width, down(value), svg.GRID))
            if index % columns == 0:
                parts.append(svg.text(x0 - 6, down(value) + 4, f"{value:g}", "end"))
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            parts.append(svg.text(across(share), y0 + height + 15, f"{100 * share:.0f} %", anchor))
        if panel.mark is not None:
            x = across(panel.mark)
            parts.append(svg.line(x, y0, x, y0 + height, svg.LIMIT, dash="3 3"))
            side = "end" if panel.mark > 0.6 else "start"
            parts.append(svg.text(x + (-4 if side == "end" else 4), y0 + 10, panel.mark_text, side))
        for line in panel.lines:
            colour, dash = styles[line.name]
            parts.append(svg.path([(across(x), down(y)) for x, y in line.points], colour, dash))
    rows = -(-len(panels) // columns)
    return svg.chart(title, top_of + rows * (height + 52) - 24, parts)


def interval(
    median: float,
    low: float,
    high: float,
    *,
    limits: Sequence[tuple[float, str]],
    text: str,
    title: str,
) -> str:
    """Return a ratio with its interval on an axis with named limits: (ratio, name)."""
    values = [median, low, high, *(value for value, _ in limits)]
    first, last = _apart(min(values), max(values))
    pad = 0.12 * (last - first)
    start, end = max(0.0, first - pad), last + pad
    left, span = 24, svg.WIDTH - 48

    def place(value: float) -> float:
        return left + span * (value - start) / (end - start)

    raised = _rows([(place(limit), name) for limit, name in limits])
    axis = 84 + ROW * max(raised, default=0)
    parts = [svg.line(left, axis, left + span, axis, svg.GRID)]
    for tick in (tick for tick in ticks(start, end, 6) if start <= tick <= end):
        parts.append(svg.line(place(tick), axis, place(tick), axis + 5, svg.GRID))
        parts.append(svg.text(place(tick), axis + 19, f"{tick:g}", "middle"))
    for index, ((limit, name), row) in enumerate(zip(limits, raised, strict=True)):
        x, colour = place(limit), svg.LIMIT if index else svg.DENSE
        parts.append(svg.line(x, axis - 40, x, axis, colour, dash="4 3"))
        parts.append(svg.text(svg.centre(x, name), axis - 44 - ROW * row, name, "middle"))
    parts.append(svg.line(place(low), axis - 20, place(high), axis - 20, svg.SLIM, thick=3))
    for edge in (low, high):
        parts.append(svg.line(place(edge), axis - 26, place(edge), axis - 14, svg.SLIM, thick=2))
    x = place(median)
    parts.append(f'<circle cx="{x:.1f}" cy="{axis - 20}" r="5" style="fill:{svg.SLIM}"/>')
    parts.append(svg.text(svg.centre(x, text), 18, text, "middle", bold=True))
    return svg.chart(title, axis + 24, parts)


def _rows(labels: Sequence[tuple[float, str]]) -> list[int]:
    """Return on which line, counted upwards, each label (x, text) meets no other."""
    taken: list[tuple[int, float, float]] = []
    for x, name in labels:
        half = svg.CHARACTER * len(name) / 2
        left, right = svg.centre(x, name) - half, svg.centre(x, name) + half
        row = 0
        while any(r == row and left < b + ROW and a - ROW < right for r, a, b in taken):
            row += 1
        taken.append((row, left, right))
    return [row for row, _, _ in taken]


def history(points: Sequence[tuple[int, float, float]], *, metric: str, title: str) -> str:
    """Return two panels over the steps of recovery, (step, loss, metric): the loss, the metric."""
    gap, left, height, top = 70, 44, 140, 26
    width = (svg.WIDTH - left - gap) / 2
    last = max((step for step, _, _ in points), default=0) or 1
    parts: list[str] = []
    for index, name in enumerate(("loss", metric)):
        x0 = left + index * (width + gap)
        values = [point[1 + index] for point in points]
        scale = ticks(min(values, default=0.0), max(values, default=1.0), 5)
        bottom, head = scale[0], scale[-1]

        def place(
            step: float, value: float, x0: float = x0, low: float = bottom, high: float = head
        ) -> tuple[float, float]:
            return x0 + width * step / last, top + height * (1 - (value - low) / (high - low))

        parts.append(svg.text(x0, 14, name, bold=True))
        for tick in scale:
            y = place(0, tick)[1]
            parts.append(svg.line(x0, y, x0 + width, y, svg.GRID))
            parts.append(svg.text(x0 - 6, y + 4, f"{tick:g}", "end"))
        parts.append(svg.text(x0, top + height + 18, "0"))
        parts.append(svg.text(x0 + width, top + height + 18, f"step {last}", "end"))
        placed = [place(step, value) for (step, _, _), value in zip(points, values, strict=True)]
        parts.append(svg.path(placed, svg.SLIM))
        if placed:
            x, y = placed[-1]
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:{svg.SLIM}"/>')
    return svg.chart(title, top + height + 24, parts)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return about `most` round values from at or below `low` to at or above `high`.

    Values that agree to a millionth count as equal, and get an axis around them.
    """
    low, high = _apart(low, high)
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def _apart(low: float, high: float) -> tuple[float, float]:
    """Return both, or where they agree to a millionth a range around them.

    Such values differ by rounding alone, and their ticks would round to one number.
    """
    size = max(abs(low), abs(high))
    if high - low > 1e-6 * size:
        return low, high
    return low - 0.5 * (size or 1), high + 0.5 * (size or 1)


def _root_ticks(most: float) -> list[float]:
    """Return 0 and round values up to `most` that stay apart on a scale of square roots."""
    power = 10.0 ** math.floor(math.log10(most))
    kept = [0.0]
    for value in (power * k for k in (0.1, 0.5, 1, 2, 5)):
        if value <= most and math.sqrt(value / most) - math.sqrt(kept[-1] / most) > 0.2:
            kept.append(float(f"{value:.4g}"))
    return kept


def _bar(bar: Bar, top: float, place: Callable[[float], float], colour: str) -> list[str]:
    start, end = place(0), place(bar.value)
    parts = [svg.rect(start, top, max(0.5, end - start), 12, colour)]
    if bar.high > bar.low:
        parts.append(svg.line(place(bar.low), top + 6, place(bar.high), top + 6, svg.TEXT))
    parts.append(svg.text(max(end, place(bar.high)) + 6, top + 10, bar.text))
    return parts


def _style(index: int) -> tuple[str, str]:
    """Return colour and dashes of a line: dashes first, since print has no colours."""
    colours = (svg.SLIM, svg.DENSE, svg.LIMIT)
    count = len(svg.DASHES)
    return colours[index // count % len(colours)], svg.DASHES[index % count]


def _legend(styles: Mapping[str, tuple[str, str]], left: float, y: float) -> tuple[list[str], int]:
    """Return the legend of name -> (colour, dashes), and its lines of text: 0 for a single name."""
    if len(styles) < 2:
        return [], 0
    parts: list[str] = []
    x, lines = left, 1
    for name, (colour, dash) in styles.items():
        width = 32 + svg.CHARACTER * len(name)
        if x > left and x + width > svg.WIDTH:
            x, lines = left, lines + 1
        at = y + LEGEND * (lines - 1)
        parts.append(svg.line(x, at - 4, x + 26, at - 4, colour, thick=2, dash=dash))
        parts.append(svg.text(x + 32, at, name))
        x += width + 24
    return parts, lines
