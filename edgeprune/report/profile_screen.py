"""A profile, and the difference of two, on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report import columns, figures, summary
from edgeprune.report.profile_page import facts, free, of_limit, rate

if TYPE_CHECKING:
    from edgeprune.records import LayerProfile, ModelProfile, ProfileDifference
    from edgeprune.report.console import Console


COLUMNS = (
    *("layer", "operator", "share", "", "cost", "MACs", "achieved", "of its limit"),
    *("output", "parameters", "activations"),
)
# What goes first where the terminal is narrow.
SPARE = ("activations", "parameters", "achieved", "output", "of its limit", "operator", "MACs", "")
LEFT_ALIGNED = ("layer", "operator", "", "of its limit")


def show(console: Console, profile: ModelProfile) -> None:
    """Show the layers of a profile by cost, and below them what holds for the whole.

    Where the terminal is too narrow for all columns, the least important are left out, and said.
    """
    whole = summary.profiled_run(profile)
    ordered = sorted(profile.layers, key=lambda layer: -layer.cost)
    rows = [_row(console, profile, layer, whole) for layer in ordered if not _gone(layer)]
    if profile.layout:
        share = profile.layout / whole
        rows.append(
            {
                "layer": "changes of layout",
                "operator": "no layer",
                "share": f"{100 * share:.1f} %",
                "": console.bar(share),
                "cost": figures.single(profile.layout, profile.unit, profile.kind),
            }
        )
    titles = [title for title in COLUMNS if any(row.get(title) for row in rows)]
    kept = columns.fit(titles, rows, SPARE, console.rich.width)
    left_out = [title for title in SPARE if title and title in titles and title not in kept]
    titles = kept
    table = console.table(*(t if t in LEFT_ALIGNED else f">{t}" for t in titles))
    for column in table.columns[1:]:
        column.no_wrap = True
    for row in rows:
        console.row(table, *(row.get(title, "") for title in titles))
    console.title(f"{profile.model} on {profile.device}", profile.kind)
    if rows:
        console.rich.print(table)
    below = facts(profile)
    if removed := [layer.name for layer in ordered if _gone(layer)]:
        below.append((free(profile.kind), ", ".join(removed)))
    if left_out:
        missing = f"{', '.join(reversed(left_out))}; --json and --html have them"
        below.append(("too wide for here", missing))
    console.facts(*below)
    for warning in profile.warnings:
        console.warning(warning)


def _gone(layer: LayerProfile) -> bool:
    """Whether the layer costs nothing: the runtime has no node for it, or a formula says so."""
    return layer.cost == layer.high == 0


def _row(
    console: Console, profile: ModelProfile, layer: LayerProfile, whole: float
) -> dict[str, str]:
    """Return title -> cell for one layer."""
    cost = figures.cost_interval(layer.cost, layer.low, layer.high, profile.unit, profile.kind)
    return {
        "layer": layer.name,
        "operator": layer.operator,
        "share": f"{100 * layer.cost / whole:.1f} %",
        "": console.bar(layer.cost / whole),
        "cost": cost,
        "MACs": figures.count(layer.macs),
        "achieved": rate(layer),
        "of its limit": of_limit(layer),
        "output": figures.shape(layer.output_shape),
        "parameters": figures.size(layer.parameter_bytes),
        "activations": figures.size(layer.activation_bytes),
    }


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
