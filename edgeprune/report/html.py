"""The report as one HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeprune.records import (
    Artifact,
    CostTable,
    CSource,
    LayerProfile,
    ModelProfile,
    Record,
    SensitivityCurve,
    SkippedGroup,
    Unit,
    Verdict,
    Views,
    WidthPlan,
)
from edgeprune.report import arena, charts, figures, markdown, plan_summary, summary, transforms
from edgeprune.report.pictures import captions, pictures

if TYPE_CHECKING:
    from jinja2 import Environment, Template

MOST_BARS = 24
MODEL, INTEGER_MODEL = "model.onnx", "model.int8.onnx"
TEMPLATES = Path(__file__).parent


class ReportData(Record):
    """Everything that the report and the model card show.

    `code` is the C code of the slim model, where there is some. `history` holds (step, loss,
    validation metric); `files` maps the name of a shipped file to its SHA-256; `versions` maps a
    package to its version.
    """

    title: str
    verdict: Verdict
    dense_profile: ModelProfile
    slim_profile: ModelProfile | None
    table: CostTable
    plan: WidthPlan
    curves: tuple[SensitivityCurve, ...]
    history: tuple[tuple[int, float, float], ...]
    skipped: tuple[SkippedGroup, ...]
    artifact: Artifact
    files: dict[str, str]
    versions: dict[str, str]
    licence: str | None = None
    code: CSource | None = None
    views: Views = Views()

    @property
    def precision(self) -> Literal["float32", "int8"]:
        """The precision that costs, and the accuracy of the slim model, are of."""
        return "int8" if INTEGER_MODEL in self.files else "float32"

    @property
    def model(self) -> str:
        """Name of the shipped file in that precision."""
        return INTEGER_MODEL if self.precision == "int8" else MODEL


def render(document: ReportData) -> str:
    """Return the report as the text of an HTML file."""
    from markupsafe import Markup

    drawn = {name: Markup(svg) for name, svg in _charts(document).items()}
    page = fill(
        "report.html.j2",
        document,
        charts=drawn,
        captions=captions(document.views, document.dense_profile, document.slim_profile),
        layers=_layers(document),
        arena=arena,
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def fill(name: str, document: ReportData, **more: object) -> str:
    """Return a template of this folder filled with the document, escaped as `template` says."""
    return template(name).render(d=document, v=document.verdict, **more)


def template(name: str) -> Template:
    """Return a template of this folder; what is put into it is escaped, but for Markdown.

    There the template says by `markdown.cell` and `markdown.code` which texts are foreign: no rule
    fits both prose and code.
    """
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        figures=figures,
        markdown=markdown,
        plan_summary=plan_summary,
        summary=summary,
        transforms=transforms,
    )
    return environment


def _layers(document: ReportData) -> list[tuple[LayerProfile, LayerProfile | None]]:
    """Return the layers of the dense model by cost, each with its namesake in the slim model."""
    slim = document.slim_profile
    after = {layer.name: layer for layer in slim.layers} if slim else {}
    ordered = sorted(document.dense_profile.layers, key=lambda layer: -layer.cost)
    return [(layer, after.get(layer.name)) for layer in ordered]


def _charts(document: ReportData) -> dict[str, str]:
    verdict, plan = document.verdict, document.plan
    rows = [pair for pair in _layers(document) if pair[0].cost > 0][:MOST_BARS]
    name = summary.ratio_name(verdict)
    return {
        "ratio": _ratio(verdict, name),
        "arena": arena.timeline(
            document.code,
            verdict.slim.footprint,
            title="The arena, step by step, and the whole RAM",
        )
        if document.code
        else "",
        "layers": charts.bars(
            [
                charts.Pair(
                    layer.name,
                    _bar(layer, verdict.unit),
                    _bar(after, verdict.unit) if after else None,
                )
                for layer, after in rows
            ],
            title=f"Cost of the layers, dense above slim ({verdict.kind})",
        ),
        "widths": charts.widths(
            [(group, planned.before, planned.after) for group, planned in plan.groups.items()],
            title="Channels of each group, before and after",
        ),
        "curves": charts.curves(
            list(_panels(document)), title="Increase of the loss against the share of channels kept"
        ),
        "history": charts.history(
            document.history,
            metric=f"validation {verdict.metric}",
            title="Loss and validation metric over the steps of recovery",
        ),
        **pictures(
            document.views,
            plan,
            document.curves,
            document.dense_profile,
            document.slim_profile,
            verdict.schedule,
            document.table.skipped,
        ),
    }


def _ratio(verdict: Verdict, name: str) -> str:
    found = verdict.speedup
    limits = [(1.0, "dense model")]
    if verdict.budget.limit > 0:
        limits.append((verdict.dense.cost / verdict.budget.limit, "cost limit"))
    shown = figures.ratio(found.median, found.high - found.low)
    interval = " with its interval" if found.low < found.high else ""
    return charts.interval(
        found.median,
        found.low,
        found.high,
        limits=limits,
        text=f"{name} {shown}, {summary.ratio_doubt(verdict)}",
        title=f"{figures.capital(name)}{interval}, against the dense model and the limit of cost",
    )


def _bar(layer: LayerProfile, unit: Unit) -> charts.Bar:
    return charts.Bar(layer.cost, layer.low, layer.high, figures.cost(layer.cost, unit))


def _panels(document: ReportData) -> Iterable[charts.Panel]:
    groups = document.plan.groups
    for group in dict.fromkeys(curve.group for curve in document.curves):
        lines = tuple(
            charts.Line(
                curve.criterion,
                tuple(
                    (width / curve.widths[-1], loss)
                    for width, loss in zip(curve.widths, curve.increases, strict=True)
                ),
            )
            for curve in document.curves
            if curve.group == group and curve.widths
        )
        planned = groups.get(group)
        yield charts.Panel(
            group,
            lines,
            planned.after / planned.before if planned else None,
            str(planned.after) if planned else "",
        )
