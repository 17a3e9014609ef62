"""The pictures of a report that follow from what is drawn of a run (`Views`)."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records import (
    LayerProfile,
    ModelProfile,
    ScheduleHistory,
    SensitivityCurve,
    SkippedGroup,
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
    alone: Sequence[SkippedGroup] = (),
) -> dict[str, str]:
    """Return name -> SVG; "" where a run has nothing to draw.

    `alone` are the groups without prices.
    """
    planned = {name: group.after for name, group in plan.groups.items()}
    return {
        "steps": _steps(schedule, dense.total) if schedule and len(schedule.steps) > 1 else "",
        "graph": _graph(views, dense, planned, [group.name for group in alone]),
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


def _graph(views: Views, dense: ModelProfile, planned: dict[str, int], alone: Sequence[str]) -> str:
    if views.groups is None or not views.groups.groups:
        return ""
    layers = [layer.name for layer in dense.layers]
    if len(layers) > MOST_LAYERS:
        return ""
    return dependency_graph(
        views.groups.groups,
        layers,
        planned,
        title="Groups of channels and the layers between them",
        alone=alone,
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


def captions(views: Views, dense: ModelProfile, slim: ModelProfile | None) -> dict[str, str]:
    """Return name -> caption of the pictures that do not always show everything."""
    rows = _weighted(dense, slim)
    which = (
        f"the {MOST_BARS} largest of {len(rows)} layers" if len(rows) > MOST_BARS else "each layer"
    )
    gone = any(row.after is None for row in _largest(rows))
    count = len(views.spreads)
    cut_off = count > MOST_PANELS
    shown = f"the first {MOST_PANELS} of {count} groups, each" if cut_off else "each group"
    return {
        "parameters": f"Bytes of weights of {which}, before and after."
        + (" A layer without a second bar is gone." if gone else ""),
        "scores": f"How many channels have which score; {shown} by the criterion of its plan and "
        "on axes of its own. Scores of different groups cannot be compared.",
    }


def _parameters(dense: ModelProfile, slim: ModelProfile) -> str:
    return charts.bars(
        _largest(_weighted(dense, slim)), title="Parameters of the layers, dense above slim"
    )


def _weighted(dense: ModelProfile, slim: ModelProfile | None) -> list[charts.Pair]:
    """Return the layers with weights, before and after; those of a removed branch have no after."""
    after = {layer.name: layer for layer in slim.layers} if slim else {}
    return [
        charts.Pair(
            layer.name, _bytes(layer), _bytes(after[layer.name]) if layer.name in after else None
        )
        for layer in dense.layers
        if layer.parameter_bytes
    ]


def _largest(rows: Sequence[charts.Pair]) -> list[charts.Pair]:
    largest = sorted(rows, key=lambda row: -row.before.value)[:MOST_BARS]
    return [row for row in rows if row in largest]


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
