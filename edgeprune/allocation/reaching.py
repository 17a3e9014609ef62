"""Any allocator brought to a measured cost: propose, measure the plan whole, aim again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeprune.allocation.closed_loop import AIM, FULL_USE, GOOD, Measured
from edgeprune.allocation.registry import allocator as allocator_of
from edgeprune.allocation.task import Proposal, Task
from edgeprune.budget import keeps_to
from edgeprune.records import FrontPoint, PlannedGroup, Round, WidthPlan
from edgeprune.report.figures import symbol

ROUNDS = 6  # plans measured at the most
TRIES = 24  # targets tried; most of them give a plan that is known already


def reach(
    name: str,
    task: Task,
    budget: float,
    *,
    measure: Callable[[dict[str, PlannedGroup]], Measured],
    note: Callable[[str], None] = lambda _: None,
) -> WidthPlan:
    """Return the allocator's plan whose measured cost is within `budget` and closest to it.

    The first target is the middle of the aim; each further one is scaled by what the last plan
    missed, and once targets above and below are known it lies between them. So every allocator's
    knob is bisected on measured costs. If no plan is within the budget, the cheapest is returned,
    and the budget's gate judges it. The gap is None where the allocator proves none.

    Args:
        name: of the allocator.
        task: what it works on.
        budget: limit in the device's unit.
        measure: builds a plan's model and measures it whole.
        note: receives one line a round.
    """
    allocator = allocator_of(name)
    aim = sum(AIM) / 2 * budget
    target, low, high = aim, 0.0, float("inf")
    seen: dict[Any, tuple[Proposal, Measured, float]] = {}
    for _ in range(TRIES if allocator.steerable else 1):
        proposal = allocator.propose(task, target)
        key = tuple(sorted(proposal.kept.items()))
        if key not in seen:
            if len(seen) == ROUNDS:
                break
            predicted = task.cost(proposal.widths)
            found = measure(task.planned(proposal.kept, spanned=allocator.spanning))
            seen[key] = proposal, found, predicted
            note(
                f"round {len(seen)}: predicted {predicted:.4g}, found {found.cost:.4g} "
                f"{symbol(task.table.unit)} = {100 * found.cost / budget:.1f} % of the budget"
            )
        cost = seen[key][1].cost
        if GOOD[0] * budget <= cost <= GOOD[1] * budget:
            break
        if cost < aim:
            low = max(low, target)
        else:
            high = min(high, target)
        scaled = target * aim / cost
        if not low < scaled < high or len(seen) > 3:  # halving is safe where costs jump
            scaled = (low + high) / 2 if high < float("inf") else max(scaled, 1.1 * target)
        if low and high < low * 1.0005:
            break
        target = scaled
    proposal, found, _ = _best(list(seen.values()), budget)
    rounds = tuple(
        Round(widths=p.widths, predicted=c, measured=m.cost, low=m.low, high=m.high)
        for p, m, c in seen.values()
    )
    first = rounds[0]
    return WidthPlan(
        groups=task.planned(proposal.kept, spanned=allocator.spanning),
        budget=budget,
        unit=task.table.unit,
        predicted=first.predicted,
        predicted_error=first.predicted / first.measured - 1,
        corrected=found.cost,
        gap=proposal.gap,
        loss=task.loss(proposal.kept),
        rounds=rounds,
        allocation=name,
        front=tuple(
            FrontPoint(widths=dict(p.widths), cost=p.cost, loss=p.loss) for p in proposal.front
        ),
    )


def _best(
    seen: list[tuple[Proposal, Measured, float]], budget: float
) -> tuple[Proposal, Measured, float]:
    """Return the plan inside the window, else the dearest within the budget, else the cheapest."""
    within = [entry for entry in seen if keeps_to(entry[1].cost, budget)]
    if not within:
        return min(seen, key=lambda entry: entry[1].cost)
    full = [entry for entry in within if entry[1].cost >= FULL_USE * budget]
    good = [e for e in full if e[1].cost <= GOOD[1] * budget]
    return max(good or full or within, key=lambda entry: entry[1].cost)
