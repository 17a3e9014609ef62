"""The tables of a plan: widths, budget, rounds of the closed loop, trials."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from edgeprune.report import columns, figures, plan_summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.records import CostTable, SkippedGroup, WidthPlan
    from edgeprune.report.console import Console


OFFERED = "offered widths"
COLUMNS = ("group", "before", "after", "kept", "", "saves", "loses", "ranked by", OFFERED)
LEFT_ALIGNED = ("group", "", "ranked by", OFFERED)
SPARE = (OFFERED, "kept", "before")  # what goes first where the terminal is narrow
NARROWEST = 24  # of names, before a column of figures goes


def show(
    console: Console, plan: WidthPlan, table: CostTable, alone: Sequence[SkippedGroup]
) -> None:
    """Show each group's width before and after, the prediction, the rounds, and who is `alone`."""
    why = {reason.group: reason for reason in plan.explanation.groups} if plan.explanation else {}
    rows = [
        {
            "group": name,
            "before": str(group.before),
            "after": str(group.after),
            "kept": figures.percent(group.after / group.before),
            "": console.bar(group.after / group.before),
            "saves": figures.cost(why[name].saves, plan.unit) if name in why else "-",
            "loses": f"{why[name].loses:.4f}" if name in why else "-",
            "ranked by": group.criterion,
            OFFERED: _offered(table.widths.get(name, ())),
        }
        for name, group in plan.groups.items()
    ]
    titles, left_out = _fitting(console, rows)
    console.title(f"plan for {table.device}", table.kind)
    console.rich.print(
        columns.table(console, titles, rows, names="group", left=LEFT_ALIGNED, wraps=(OFFERED,))
    )
    found = plan.rounds[-1] if plan.rounds else None
    error = f"off by {figures.percent(abs(plan.predicted_error))}"
    error = error if found else "not checked yet, edgeprune run does"
    cost, share = figures.cost(plan.corrected, plan.unit), plan.corrected / plan.budget
    used = f"{cost} {table.kind}, {figures.percent(share)} of the budget"
    if not table.widths:
        console.facts(
            ("budget", figures.cost(plan.budget, plan.unit)),
            ("cost", f"{cost}: nothing has to be cut"),
            *plan_summary.left_alone(alone),
        )
        return
    console.facts(
        ("budget", figures.cost(plan.budget, plan.unit)),
        (
            "first plan",
            f"predicted {plan_summary.first_plan(plan)}, from {plan_summary.prices(table)}; "
            f"{error}",
        ),
        *([("this plan", used)] if found else []),
        (
            "optimality gap",
            "none is proven"
            if plan.gap is None
            else f"{100 * plan.gap:.2g} %, proven by the solver{plan_summary.of_what(plan)}",
        ),
        *([("saves", plan_summary.saves(plan))] if why else []),
        *([("loses", plan_summary.LOSES[plan.losses])] if why else []),
        ("ranked by", plan_summary.ranked_by(plan)),
        *plan_summary.limits(plan),
        *([("trials", plan_summary.TRIALS)] if plan.trials else []),
        *([("too wide for here", f"{', '.join(left_out)}; --json has them")] if left_out else []),
        *plan_summary.left_alone(alone),
    )
    if found:
        loop = console.table(">round", ">predicted", f">{table.kind}", ">error")
        for column in loop.columns:
            column.no_wrap = True
        for row in plan_summary.rounds(plan, table.kind):
            console.row(loop, str(row.number), row.predicted, row.found, row.error)
        console.rich.print(loop)
    if plan.trials:
        after = f">after {plan.trials[0].steps} steps"
        tried = console.table("widths tried", ">predicted", ">loss re-fitted", after, "")
        tried.columns[1].no_wrap = tried.columns[2].no_wrap = tried.columns[3].no_wrap = True
        for line in plan_summary.trials(plan):
            console.row(tried, *line)
        console.rich.print(tried)


def _fitting(console: Console, rows: Sequence[columns.Row]) -> tuple[list[str], list[str]]:
    """Return the columns that there is room for, and the names of those that there is none for.

    Bars go before names are shortened, and these are before a column of figures goes.
    """
    cramped = [{**row, "group": row["group"][:NARROWEST]} for row in rows]
    titles = columns.fit(COLUMNS, rows, ("",), console.rich.width)
    titles = columns.fit(titles, cramped, SPARE, console.rich.width)
    return titles, [title for title in COLUMNS if title and title not in titles]


def _offered(widths: Sequence[int]) -> str:
    """Return the widths, as first, last and step where they are evenly apart."""
    steps = {b - a for a, b in pairwise(widths)}
    if len(widths) > 3 and len(steps) == 1:
        return f"{widths[0]} to {widths[-1]} by {steps.pop()}"
    return " ".join(map(str, widths)) or "dense only"
