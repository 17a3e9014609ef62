"""A comparison of methods, summed up over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from edgeprune.budget import keeps_to
from edgeprune.records import BenchResult, BenchRow
from edgeprune.report import summary

NEAR = 0.97  # of the target: what costs less is not compared at equal cost


@dataclass(frozen=True)
class Entry:
    """One method at one target, over its seeds; `spread` is the standard deviation, 0 for one."""

    method: str
    target: float
    seeds: int
    cost_ratio: float
    macs_ratio: float
    before: float | None
    accuracy: float
    spread: float
    seconds: float

    @property
    def over(self) -> bool:
        """Whether it costs more than was asked for."""
        return not keeps_to(self.cost_ratio, self.target)

    @property
    def under(self) -> bool:
        """Whether it costs so much less than was asked for that costs are not equal."""
        return self.cost_ratio < NEAR * self.target


def entries(result: BenchResult, target: float) -> tuple[Entry, ...]:
    """Return one entry a method at `target`: those within the budget first, best accuracy first."""
    methods: dict[str, list[BenchRow]] = {}
    for row in result.rows:
        if abs(row.target - target) < 1e-9:
            methods.setdefault(row.method, []).append(row)
    found = [_entry(method, target, rows) for method, rows in methods.items()]
    return tuple(sorted(found, key=lambda e: (e.over, -e.accuracy)))


def _entry(method: str, target: float, rows: Sequence[BenchRow]) -> Entry:
    values = [row.accuracy for row in rows]
    before = [row.accuracy_before_recovery for row in rows]
    known = [value for value in before if value is not None]
    return Entry(
        method=method,
        target=target,
        seeds=len(rows),
        cost_ratio=mean(row.cost_ratio for row in rows),
        macs_ratio=mean(row.macs_ratio for row in rows),
        before=mean(known) if known else None,
        accuracy=mean(values),
        spread=stdev(values) if len(values) > 1 else 0.0,
        seconds=mean(row.seconds for row in rows),
    )


def accuracy_text(entry: Entry) -> str:
    """Return the mean accuracy with its doubt in words."""
    if entry.seeds == 1:
        return f"{entry.accuracy:.4f} (one seed)"
    return f"{entry.accuracy:.4f} ± {entry.spread:.4f}"


def cost_text(entry: Entry) -> str:
    """Return the share of the dense cost, and whether it is over or under what was asked for."""
    mark = " (over)" if entry.over else " (under)" if entry.under else ""
    return f"{100 * entry.cost_ratio:.1f} %{mark}"


def condition(result: BenchResult) -> str:
    """Return the conditions under which the rows hold."""
    count = len(result.seeds)
    seeds = "one seed" if count == 1 else f"{count} seeds, mean ± standard deviation"
    after = f"after {result.steps} steps of recovery, {seeds}"
    shown = [entry for target in result.targets for entry in entries(result, target)]
    said = [
        f"{result.metric} on {result.samples:,} {result.accuracy_on} samples, "
        f"{after if result.steps else 'after BatchNorm recalibration alone'}",
        *_from_scratch(result),
        f"costs are {result.kind} on {result.device}",
    ]
    cut = [entry for entry in shown if entry.seeds > 1 and entry.before is not None]
    if cut and all(entry.spread == 0 for entry in cut):
        said.append(
            "the seeds changed no accuracy of a cut model, so ± 0 tells no doubt: the job's data "
            "come in one order, or accuracies have no room left"
        )
    if any(entry.over for entry in shown):
        said.append("over: costs more than was asked for")
    if any(entry.under for entry in shown):
        said.append(f"under: costs less than {100 * NEAR:.0f} % of what was asked for")
    return "; ".join(said)


def _from_scratch(result: BenchResult) -> tuple[str, ...]:
    """Return how long models were trained from scratch beside the steps of recovery, if longer."""
    names: dict[int, dict[str, None]] = {}
    for row in result.rows:
        if row.dense_steps:
            names.setdefault(row.dense_steps + row.steps, {})[row.method] = None
    return tuple(
        f"{summary.listed(tuple(methods))} trained for {steps} steps from fresh weights"
        for steps, methods in names.items()
    )


def markdown(result: BenchResult) -> str:
    """Return the tables as Markdown, one for each target."""
    lines: list[str] = []
    after = " after | seeds |" if result.steps else ""
    for target in result.targets:
        lines += [
            f"**{100 * target:.0f} % of the dense cost** (dense {result.dense.accuracy:.4f})",
            "",
            f"| method | cost | MACs | before recovery |{after}",
            f"|---|---:|---:|---:|{'---:|---:|' if after else ''}",
        ]
        for e in entries(result, target):
            cells = [
                f"`{e.method}`",
                cost_text(e),
                f"{100 * e.macs_ratio:.1f} %",
                "" if e.before is None else f"{e.before:.4f}",
                *((accuracy_text(e), str(e.seeds)) if after else ()),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
