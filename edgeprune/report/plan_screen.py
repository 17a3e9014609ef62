"""The tables of a plan: widths, budget, rounds of the closed loop, trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report import figures, plan_summary

if TYPE_CHECKING:
    from edgeprune.records import CostTable, WidthPlan
    from edgeprune.report.console import Console


def show(console: Console, plan: WidthPlan, table: CostTable) -> None:
    """Show each group's width before and after, the prediction, and the rounds."""
    rows = console.table(
        "group", ">before", ">after", ">kept", "", ">saves", ">loses", "criterion",
        "offered widths",
    )  # fmt: skip
    why = {reason.group: reason for reason in plan.explanation.groups} if plan.explanation else {}
    for name, group in plan.groups.items():
        share = group.after / group.before
        console.row(
            rows,
            name,
            str(group.before),
            str(group.after),
            figures.percent(share),
            console.bar(share),
            figures.cost(why[name].saves, plan.unit) if name in why else "-",
            f"{why[name].loses:.4f}" if name in why else "-",
            group.criterion,
            " ".join(map(str, table.widths.get(name, ()))) or "dense only",
        )
    console.title(f"plan for {table.device}", table.kind)
    console.rich.print(rows)
    found = plan.rounds[-1] if plan.rounds else None
    error = f"off by {figures.percent(abs(plan.predicted_error))}"
    error = error if found else "not checked yet, edgeprune run does"
    cost, share = figures.cost(plan.corrected, plan.unit), plan.corrected / plan.budget
    used = f"{cost} {table.kind}, {figures.percent(share)} of the budget"
    if not table.widths:
        console.facts(
            ("budget", figures.cost(plan.budget, plan.unit)),
            ("cost", f"{cost}: nothing has to be cut"),
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
        *plan_summary.limits(plan),
        *([("trials", plan_summary.TRIALS)] if plan.trials else []),
    )
    if found:
        loop = console.table(">round", ">predicted", f">{table.kind}", ">error of the prediction")
        for row in plan_summary.rounds(plan, table.kind):
            console.row(loop, str(row.number), row.predicted, row.found, row.error)
        console.rich.print(loop)
    if plan.trials:
        after = f">after {plan.trials[0].steps} steps"
        tried = console.table("widths tried", ">predicted", ">loss re-fitted", after, "")
        for line in plan_summary.trials(plan):
            console.row(tried, *line)
        console.rich.print(tried)
