"""A comparison of methods as one HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records import BenchResult
from edgeprune.report import svg
from edgeprune.report.bench_summary import Entry, accuracy_text, condition, cost_text, entries
from edgeprune.report.charts import ticks
from edgeprune.report.html import template

OURS = "exact"


def render(result: BenchResult) -> str:
    """Return the page as the text of an HTML file."""
    from markupsafe import Markup

    numbers = {m: i for i, m in enumerate(dict.fromkeys(r.method for r in result.rows), start=1)}
    tables = [(target, entries(result, target)) for target in result.targets]
    points = [entry for _, found in tables for entry in found]
    plots = [("Before recovery", _plot(points, numbers, "before recovery", result))]
    if result.steps:
        plots.append(("After recovery", _plot(points, numbers, "after recovery", result)))
    page = template("bench.html.j2").render(
        r=result,
        tables=tables,
        numbers=numbers,
        plots=[(title, Markup(plot)) for title, plot in plots],
        condition=condition(result),
        accuracy=accuracy_text,
        cost=cost_text,
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def _plot(points: Sequence[Entry], numbers: dict[str, int], what: str, result: BenchResult) -> str:
    """Return accuracy against cost: a circle for each method and budget, ours joined by a line."""

    def value(entry: Entry) -> float | None:
        return entry.before if what == "before recovery" else entry.accuracy

    shown = [(e, y) for e in points if (y := value(e)) is not None]
    title = f"{result.metric} {what} against cost"
    if not shown:
        return svg.chart(f"{title}: nothing to show", 20, [])
    costs = [e.cost_ratio for e, _ in shown]
    values = [y for _, y in shown] + [result.dense.accuracy]
    left, right, top, height = 60.0, svg.WIDTH - 20.0, 14.0, 300.0
    low_x, high_x = 0.95 * min(costs), 1.05 * max(costs)
    pad = 0.05 * (max(values) - min(values)) or 0.01
    low_y, high_y = min(values) - pad, max(values) + pad

    def across(x: float) -> float:
        return left + (right - left) * (x - low_x) / (high_x - low_x)

    def down(y: float) -> float:
        return top + height * (high_y - y) / (high_y - low_y)

    parts = []
    for y in ticks(low_y, high_y, 6):
        if low_y <= y <= high_y:
            parts.append(svg.line(left, down(y), right, down(y), svg.GRID))
            parts.append(svg.text(left - 6, down(y) + 4, f"{y:g}", "end"))
    for x in ticks(low_x, high_x, 6):
        if low_x <= x <= high_x:
            parts.append(svg.text(across(x), top + height + 18, f"{100 * x:.0f} %", "middle"))
    dense = down(result.dense.accuracy)
    parts.append(svg.line(left, dense, right, dense, svg.LIMIT, dash="3 3"))
    parts.append(svg.text(left + 4, dense - 4, f"dense {result.dense.accuracy:.4f}"))
    for target in result.targets:
        if low_x <= target <= high_x:
            x = across(target)
            parts.append(svg.line(x, top, x, top + height, svg.LIMIT, dash="3 3"))
    ours = sorted((e.cost_ratio, y) for e, y in shown if e.method == OURS)
    parts.append(svg.path([(across(x), down(y)) for x, y in ours], svg.SLIM))
    for entry, y in shown:
        mine = entry.method == OURS
        x, at = across(entry.cost_ratio), down(y)
        hint = f"{entry.method}: {y:.4f} at {100 * entry.cost_ratio:.1f} % of the dense cost"
        parts.append(svg.circle(x, at, 6 if mine else 4, svg.SLIM if mine else svg.DENSE, hint))
        parts.append(svg.text(x + 7, at + 4, str(numbers[entry.method])))
    return svg.chart(title, top + height + 28, parts)
