"""The table of sensitivity: what cutting each group alone costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeprune.report import columns
from edgeprune.report.plan_summary import CUT_ALONE, LOSES

if TYPE_CHECKING:
    from edgeprune.records import SensitivityCurve
    from edgeprune.report.console import Console

BEST = "best curve by"
HALVES = "rank correlation of the cuts: halves of the calibration batches"
NARROWEST = 24  # of a name that is shortened
SHOWN = 6  # widths of a group at most, evenly spread


def show(
    console: Console,
    curves: Sequence[SensitivityCurve],
    chosen: Mapping[str, SensitivityCurve],
    metric: str,
    rankings: Mapping[str, str],
    *,
    agreed: float | None = None,
    measured: bool = True,
) -> None:
    """Show each group's loss increase (and drop of the metric) at its widths.

    `rankings` are the criteria by which a plan of the job would begin to rank, group by group.
    `agreed` is the rank correlation of the increases on two halves of the samples. Where losses are
    not `measured`, they are sums of scores.
    """
    tried = {name: [c.criterion for c in curves if c.group == name] for name in chosen}
    cells = {name: points(curve) for name, curve in chosen.items()}
    drop = f" ({metric} drop)" if any(curve.drops for curve in chosen.values()) else ""
    losses = f"width: loss increase{drop}"
    rows = [
        {
            "group": name,
            "dense": str(curve.widths[-1]),
            BEST: curve.criterion,
            losses: max(cells[name], key=len, default=""),
        }
        for name, curve in chosen.items()
    ]
    longest = max((len(cell) for row in cells.values() for cell in row), default=0)
    before = ("group", "dense", BEST)
    room = console.rich.width - columns.width(before, rows) - columns.GAP
    if room < longest:
        cramped = [{**row, "group": row["group"][:NARROWEST]} for row in rows]
        room = console.rich.width - columns.width(before, cramped) - columns.GAP
    for row in rows:
        row[losses] = _lines(cells[row["group"]], room)
    if len(losses) > room:
        title = losses.replace(" (", "\n(", 1)
        rows = [{title if k == losses else k: v for k, v in row.items()} for row in rows]
        losses = title
    left = ("group", BEST, losses)
    console.rich.print(
        columns.table(console, ("group", "dense", BEST, losses), rows, names="group", left=left)
    )
    if not measured:
        console.facts(("loss increase", LOSES["scores"]))
        return
    console.facts(
        ("best curve by", f"of {_told(tried)}: least loss where the group alone is cut"),
        ("loss increase", f"{CUT_ALONE}; a plan's loss after recovery is another"),
        *([("order", _order(chosen, agreed))] if chosen else []),
        *([("a plan", text)] if (text := _ranked(chosen, rankings)) else []),
    )


def _order(chosen: Mapping[str, SensitivityCurve], agreed: float | None) -> str:
    """Return how sure the order of the cuts is, or why that is not known."""
    if agreed is not None:
        return f"{HALVES} agree to {agreed:.3f}"
    if not any(curve.even for curve in chosen.values()):
        return "not known: the calibration samples used are one batch, which has no halves"
    return "not known: there are fewer than three cuts, or all cost the same"


def _lines(cells: Sequence[str], room: int) -> str:
    """Return the cells in lines of at most `room`, of which none breaks a cell."""
    lines = [""]
    for cell in cells:
        joined = f"{lines[-1]}  {cell}" if lines[-1] else cell
        if lines[-1] and len(joined) > room:
            lines.append(cell)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def _told(tried: Mapping[str, Sequence[str]]) -> str:
    """Return the criteria that curves were measured by."""
    return ", ".join(dict.fromkeys(name for names in tried.values() for name in names))


def _ranked(chosen: Mapping[str, SensitivityCurve], rankings: Mapping[str, str]) -> str:
    """Return by what else a plan ranks the channels of groups; '' where it ranks by these."""
    ranked = {name: rankings.get(name, curve.criterion) for name, curve in chosen.items()}
    other = {name: by for name, by in ranked.items() if by != chosen[name].criterion}
    if not other:
        return ""
    return (
        f"ranks channels by {', '.join(dict.fromkeys(other.values()))} instead, in {len(other)} of "
        f"{len(chosen)} groups: recovery reconstructs what is left, which these curves do not"
    )


def points(curve: SensitivityCurve) -> list[str]:
    """Return "width: increase (drop)" at up to 6 widths of a curve, from narrow to wide."""
    count = len(curve.widths) - 1  # the dense width costs nothing
    shown = min(count, SHOWN)
    places = sorted({round(k * (count - 1) / max(1, shown - 1)) for k in range(shown)})
    return [
        f"{curve.widths[k]}: {curve.increases[k]:+.3g}"
        + (f" ({curve.drops[k]:+.3f})" if curve.drops else "")
        for k in places
    ]
