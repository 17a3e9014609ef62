"""A comparison of methods on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report import columns
from edgeprune.report.bench_summary import accuracy_text, condition, cost_text, entries

if TYPE_CHECKING:
    from edgeprune.records import BenchResult
    from edgeprune.report.console import Console


BEFORE, SECONDS = "before\nrecovery", "seconds\na row"
COLUMNS = ("target", "method", "cost", "MACs", BEFORE, "after", SECONDS)
SPARE = (SECONDS, "MACs", BEFORE)  # what goes first where the terminal is narrow
NARROWEST = 24  # of a method's name, before a column of figures goes


def show(console: Console, result: BenchResult) -> None:
    """Show one table over all targets, the best first at each."""
    rows = [
        {
            "target": f"{100 * target:.1f} %",
            "method": e.method,
            "cost": cost_text(e),
            "MACs": f"{100 * e.macs_ratio:.1f} %",
            BEFORE: "" if e.before is None else f"{e.before:.4f}",
            "after": accuracy_text(e) if result.steps else "",
            SECONDS: f"{e.seconds:.0f}",
        }
        for target in result.targets
        for e in entries(result, target)
    ]
    cramped = [{**row, "method": row["method"][:NARROWEST]} for row in rows]
    titles = columns.fit(COLUMNS, cramped, SPARE, console.rich.width)
    console.title(
        f"{result.job} on {result.device}, dense {result.dense.accuracy:.4f}", result.kind
    )
    console.rich.print(columns.table(console, titles, rows, names="method", left=("method",)))
    console.line(condition(result))  # part of the result: figures hold under it alone
    if left_out := [title.replace("\n", " ") for title in COLUMNS if title not in titles]:
        console.line(f"too wide for here: {', '.join(left_out)}; --json has them")
    for reason in result.skipped:
        console.warning(f"left out: {reason}")
