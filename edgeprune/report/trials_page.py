"""Experiments as one HTML file that needs no network and no script."""

from __future__ import annotations

from edgeprune.records import Trial, Trials
from edgeprune.report.html import template
from edgeprune.report.scatter import Dot, scatter
from edgeprune.report.strip import strip


def render_trials(found: Trials) -> str:
    """Return the page of all experiments in `found`."""
    from markupsafe import Markup

    experiments = []
    for name in dict.fromkeys(trial.experiment for trial in found.trials):
        own = found.of(name)
        pictures = [Markup(picture) for picture in _pictures(found, name, own) if picture]
        experiments.append({"name": name, "pictures": pictures, "rows": _rows(own)})
    page = template("trials.html.j2").render(t=found, experiments=experiments)
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def _pictures(found: Trials, name: str, own: tuple[Trial, ...]) -> list[str]:
    shares = {trial.share for trial in own}
    methods = dict.fromkeys(trial.method for trial in own)
    level = (found.dense, f"dense {found.dense:.4g}")
    drawn = []
    if len(shares) > 1:
        dots = [Dot(t.method, t.share, t.metric, f"{t.method}: {t.metric:.4g}") for t in own]
        drawn.append(
            scatter(
                dots,
                across="channels removed from every group",
                up=f"{found.metric} after recovery",
                title=f"{name}: {found.metric} against the share of channels removed",
                level=level,
                percent=True,
            )
        )
    elif len(own) > len(methods):
        rows = {m: [t.metric for t in own if t.method == m] for m in methods}
        title = f"{name}: {found.metric} of every trial"
        drawn.append(strip(rows, across=f"{found.metric} after recovery", title=title))
    staged = [
        Dot(f"{t.method} to {100 * t.share:.0f} %", share, metric)
        for t in own
        for share, metric in t.stages
    ]
    if staged:
        drawn.append(
            scatter(
                staged,
                across="channels removed so far",
                up=f"validation {found.metric} after each stage",
                title=f"{name}: validation {found.metric} after each stage",
                percent=True,
            )
        )
    return drawn


def _rows(own: tuple[Trial, ...]) -> list[tuple[str, str, str, str, str, str]]:
    return [
        (
            t.method,
            f"{100 * t.share:.3g} %",
            str(t.seed),
            f"{t.parameters:,}",
            f"{t.recalibrated:.4f}",
            f"{t.metric:.4f}",
        )
        for t in own
    ]
