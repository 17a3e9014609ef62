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

    What a group saves is the cost of the plan if this group alone were dense, minus the plan's. Of
    a removed branch, which comes back whole or not at all, both stand at its first group.
    The shadow price of a limit is taken by solving with the limit and with a little more of it:
    the loss that this wins, over what it takes beyond the limit (for a continuous problem, the
    multiplier of the limit). What the plan leaves unused is not counted as more.

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
        back = _with_it(problem, choice, name)
        dense = tuple(
            len(problem.widths[h]) - 1 if other in back else choice[h]
            for h, other in enumerate(problem.names)
        )
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
        least = _least(open_to, budget, loss)
        for step in STEPS:
            more = solve(open_to, step * budget, seconds=SECONDS)
            if more is not None and more.loss < least:
                added = _added(open_to.cost(more.choice) - budget, (step - 1) * budget)
                now, then = problem.widths_of(choice), open_to.widths_of(more.choice)
                steps.append(_step(now, then, "budget", unit, added, least - more.loss))
                break
    used = problem.used(choice)
    full = {n: r for n, r in problem.limits().items() if used[n] >= FULL * r.limit}
    least = _least(open_to, max(cost, budget), loss) if full else loss
    for name, resource in full.items():
        for step in STEPS:
            rows = tuple(
                replace(row, limit=step * row.limit) if row.name == name else row
                for row in open_to.resources
            )
            roomier = replace(open_to, resources=rows)
            more = solve(roomier, max(cost, budget), seconds=SECONDS)
            if more is not None and more.loss < least:
                takes = open_to.used(more.choice)[name] - resource.limit
                added = _added(takes, (step - 1) * resource.limit)
                now, then = problem.widths_of(choice), open_to.widths_of(more.choice)
                steps.append(_step(now, then, name, resource.unit, added, least - more.loss))
                break
    return Explanation(groups=tuple(groups), steps=tuple(steps))


def _with_it(problem: Problem, choice: Choice, group: str) -> tuple[str, ...]:
    """Return the groups that are dense where `group` is to be; none of those behind a first one."""
    widths = problem.widths_of(choice)
    for block in problem.blocks:
        if group in block.groups and block.gone(widths):
            return block.groups if group == block.groups[0] else ()
    return (group,)


def _least(problem: Problem, budget: float, loss: float) -> float:
    """Return the least loss within the limits as they are, the plan's own `loss` at most."""
    found = solve(problem, budget, seconds=SECONDS)
    return loss if found is None else min(loss, found.loss * (1 - found.gap))


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
