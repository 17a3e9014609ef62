"""A comparison of methods on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report.bench_summary import accuracy_text, condition, cost_text, entries

if TYPE_CHECKING:
    from edgeprune.records import BenchResult
    from edgeprune.report.console import Console


def show(console: Console, result: BenchResult) -> None:
    """Show one table over all targets, the best first at each."""
    table = console.table(
        ">target", "method", ">cost", ">MACs", ">before recovery", ">after", ">seconds a row"
    )
    for target in result.targets:
        for e in entries(result, target):
            console.row(
                table,
                f"{100 * target:.1f} %",
                e.method,
                cost_text(e),
                f"{100 * e.macs_ratio:.1f} %",
                "" if e.before is None else f"{e.before:.4f}",
                accuracy_text(e) if result.steps else "",
                f"{e.seconds:.0f}",
            )
    console.title(
        f"{result.job} on {result.device}, dense {result.dense.accuracy:.4f}", result.kind
    )
    console.rich.print(table)
    console.line(condition(result))  # part of the result: figures hold under it alone
    for reason in result.skipped:
        console.warning(f"left out: {reason}")
