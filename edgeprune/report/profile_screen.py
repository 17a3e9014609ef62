"""A profile, and the difference of two, on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report import figures, summary
from edgeprune.report.profile_page import facts, of_limit, rate

if TYPE_CHECKING:
    from edgeprune.records import ModelProfile, ProfileDifference
    from edgeprune.report.console import Console


def show(console: Console, profile: ModelProfile) -> None:
    """Show the layers of a profile by cost, and below them what holds for the whole."""
    whole = summary.profiled_run(profile)
    limits = any(layer.limit_cost for layer in profile.layers)
    titles = ["layer", "operator", ">share", "", ">cost", ">MACs"]
    titles += [">achieved", "of its limit"] if limits else []
    table = console.table(*titles, ">output", ">parameters", ">activations")
    for layer in sorted(profile.layers, key=lambda layer: -layer.cost):
        gone = layer.cost == layer.high == 0
        console.row(
            table,
            layer.name,
            layer.operator,
            "" if gone else f"{100 * layer.cost / whole:.1f} %",
            console.bar(layer.cost / whole),
            "0, removed by the runtime"
            if gone
            else figures.cost_interval(layer.cost, layer.low, layer.high, profile.unit),
            figures.count(layer.macs),
            *((rate(layer), of_limit(layer)) if limits else ()),
            figures.shape(layer.output_shape),
            figures.size(layer.parameter_bytes),
            figures.size(layer.activation_bytes),
        )
    if profile.layout:
        share = profile.layout / whole
        console.row(
            table,
            "changes of layout",
            "no layer",
            f"{100 * share:.1f} %",
            console.bar(share),
            f"{figures.cost(profile.layout, profile.unit)} (median)",
        )
    console.title(f"{profile.model} on {profile.device}", profile.kind)
    console.rich.print(table)
    console.facts(*facts(profile))
    for warning in profile.warnings:
        console.warning(warning)


def show_difference(console: Console, difference: ProfileDifference) -> None:
    """Show what changed from an earlier profile to this one."""
    d = difference
    table = console.table("layer", f">{d.before}", f">{d.after}", ">ratio", "")
    rows = [(row.name, row.before, row.after, row.changed) for row in d.layers]
    for name, before, after, changed in [
        *rows,
        ("total", d.total_before, d.total_after, d.changed),
    ]:
        console.row(
            table,
            name,
            "-" if before is None else figures.cost(before, d.unit),
            "-" if after is None else figures.cost(after, d.unit),
            figures.ratio(after / before) if before and after else "-",
            "changed" if changed else "within the intervals",
        )
    console.rich.print(table)
