"""The table of sensitivity: what cutting each group alone costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.records import SensitivityCurve
    from edgeprune.report.console import Console

SHOWN = 6  # widths of a group at most, evenly spread


def show(
    console: Console,
    curves: Sequence[SensitivityCurve],
    chosen: Mapping[str, SensitivityCurve],
    metric: str,
    agreed: float | None,
) -> None:
    """Show each group's loss increase (and drop of the metric) at its widths.

    `agreed` is the rank correlation of the increases on two halves of the samples.
    """
    tried = {name: [c.criterion for c in curves if c.group == name] for name in chosen}
    table = console.table("group", ">dense", "criterion", f"width: loss increase ({metric} drop)")
    for name, curve in chosen.items():
        others = [criterion for criterion in tried[name] if criterion != curve.criterion]
        beaten = f", better than {', '.join(others)}" if others else ""
        console.row(
            table,
            name,
            str(curve.widths[-1]),
            f"{curve.criterion}{beaten}",
            "  ".join(points(curve)),
        )
    console.rich.print(table)
    if agreed is not None:
        console.line(f"order of the cuts: halves of the calibration batches agree to {agreed:.3f}")


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
