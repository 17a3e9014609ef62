"""The pictures of a report that follow from what is drawn of a run (`Views`)."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records import (
    LayerProfile,
    ModelProfile,
    ScheduleHistory,
    SensitivityCurve,
    Views,
    WidthPlan,
)
from edgeprune.report import charts, figures
from edgeprune.report.graph import dependency_graph
from edgeprune.report.heatmap import heatmap
from edgeprune.report.histograms import histograms
from edgeprune.report.patterns import patterns
from edgeprune.report.scatter import Dot, scatter

MOST_PANELS, MOST_BARS, MOST_LAYERS = 12, 24, 80


def pictures(
    views: Views,
    plan: WidthPlan,
    curves: Sequence[SensitivityCurve],
    dense: ModelProfile,
    slim: ModelProfile | None,
    schedule: ScheduleHistory | None = None,
) -> dict[str, str]:
    """Return name -> SVG; "" where a run has nothing to draw."""
    planned = {name: group.after for name, group in plan.groups.items()}
    return {
        "steps": _steps(schedule, dense.total) if schedule and len(schedule.steps) > 1 else "",
        "graph": _graph(views, dense, planned),
        "heatmap": _heatmap(curves, plan),
        "parameters": _parameters(dense, slim) if slim else "",
        "scores": histograms(
            views.spreads[:MOST_PANELS], title="Importance of the channels of each group"
        )
        if views.spreads
        else "",
        "weights": patterns(views.patterns, title="Weights of layers before and after the cut")
        if views.patterns
        else "",
    }


def _graph(views: Views, dense: ModelProfile, planned: dict[str, int]) -> str:
    if views.groups is None or not views.groups.groups:
        return ""
    layers = [layer.name for layer in dense.layers]
    if len(layers) > MOST_LAYERS:
        return ""
    return dependency_graph(
        views.groups.groups, layers, planned, title="Groups of channels and the layers between them"
    )


def _heatmap(curves: Sequence[SensitivityCurve], plan: WidthPlan) -> str:
    best = []
    for name, group in plan.groups.items():
        found = [curve for curve in curves if curve.group == name]
        full = [curve for curve in found if len(curve.widths) == max(len(c.widths) for c in found)]
        best += sorted(full, key=lambda curve: curve.criterion != group.criterion)[:1]
    if not best:
        return ""
    planned = {name: group.after for name, group in plan.groups.items()}
    return heatmap(best, planned, title="Increase of the loss by group and share of channels kept")


def _parameters(dense: ModelProfile, slim: ModelProfile) -> str:
    after = {layer.name: layer for layer in slim.layers}
    rows = [
        charts.Pair(layer.name, _bytes(layer), _bytes(after[layer.name]))
        for layer in dense.layers
        if layer.parameter_bytes and layer.name in after
    ]
    largest = sorted(rows, key=lambda row: -row.before.value)[:MOST_BARS]
    return charts.bars(
        [row for row in rows if row in largest], title="Parameters of the layers, dense above slim"
    )


def _steps(schedule: ScheduleHistory, whole: float) -> str:
    dots = []
    for method in ("recovered", "before training"):
        for step in schedule.steps:
            metric = step.metric if method == "recovered" else step.recalibrated
            hint = f"step {step.number}, {method}: {metric:.4g}"
            dots.append(Dot(method, step.cost / whole, metric, hint))
    return scatter(
        dots,
        across="cost of the plan, share of dense",
        up="validation metric",
        title=f"Validation metric after each step of schedule {schedule.kind}",
        percent=True,
    )


def _bytes(layer: LayerProfile) -> charts.Bar:
    size = float(layer.parameter_bytes)
    return charts.Bar(size, size, size, figures.size(layer.parameter_bytes))
