"""Why a plan is as it is: what each group saves and loses, and what more budget would buy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgeprune.allocation.exact import solve
from edgeprune.allocation.narrowed import widening
from edgeprune.allocation.problem import Choice, Problem
from edgeprune.records import Explanation, GroupReason, NextStep, Unit

STEPS = (1.01, 1.02, 1.05, 1.1)  # of a limit, until a step buys something
FULL = 0.97  # of a limit from which on more of it may buy something
SECONDS = 10.0


def explain(
    problem: Problem, choice: Choice, budget: float, unit: Unit, *, found_best: bool = False
) -> Explanation:
    """Return what each group of a plan saves and loses, and the shadow price of each limit.

    What a group saves is the cost of the plan if this group alone were dense, minus the plan's.
    The shadow price of a limit is taken by solving again with a little more of it: the loss that
    this wins, over what it takes (for a continuous problem, the multiplier of the limit).

    Args:
        problem: with prices corrected by all measured plans.
        choice: the plan.
        budget: main limit, in `unit`.
        unit: of the main cost.
        found_best: measured losses chose the plan, not the sum. What more of a limit buys is then
            looked for among plans that widen this one: where groups would be narrowed in turn,
            the sum may ask for a plan that was measured to be worse.
    """
    cost, loss = problem.cost(choice), problem.loss(choice)
    groups = []
    for g, name in enumerate(problem.names):
        dense = (*choice[:g], len(problem.widths[g]) - 1, *choice[g + 1 :])
        groups.append(
            GroupReason(
                group=name,
                before=problem.widths[g][-1],
                after=problem.widths[g][choice[g]],
                saves=problem.cost(dense) - cost,
                loses=problem.losses[g][choice[g]],
            )
        )
    open_to = widening(problem, choice) if found_best else problem
    steps = []
    if cost >= FULL * budget:
        for step in STEPS:
            more = solve(open_to, step * cost, seconds=SECONDS)
            if more is not None and more.loss < loss:
                added = _added(open_to.cost(more.choice) - cost, (step - 1) * cost)
                now, then = problem.widths_of(choice), open_to.widths_of(more.choice)
                steps.append(_step(now, then, "budget", unit, added, loss - more.loss))
                break
    used = problem.used(choice)
    for name, resource in problem.limits().items():
        if used[name] < FULL * resource.limit:
            continue
        for step in STEPS:
            rows = tuple(
                replace(row, limit=step * row.limit) if row.name == name else row
                for row in open_to.resources
            )
            roomier = replace(open_to, resources=rows)
            more = solve(roomier, max(cost, budget), seconds=SECONDS)
            if more is not None and more.loss < loss:
                takes = open_to.used(more.choice)[name] - used[name]
                added = _added(takes, (step - 1) * resource.limit)
                now, then = problem.widths_of(choice), open_to.widths_of(more.choice)
                steps.append(_step(now, then, name, resource.unit, added, loss - more.loss))
                break
    return Explanation(groups=tuple(groups), steps=tuple(steps))


def _added(takes: float, allowed: float) -> float:
    """Return what a better plan takes more; what was allowed where it takes none of it."""
    return takes if takes > 0 else allowed


def _step(
    now: Mapping[str, int],
    then: Mapping[str, int],
    limit: str,
    unit: str,
    added: float,
    wins: float,
) -> NextStep:
    return NextStep(
        limit=limit,
        unit=unit,
        added=added,
        wins=wins,
        price=wins / added,
        widths={name: (now[name], then[name]) for name in now if now[name] != then[name]},
    )
