"""Whether limits can be reached at all, and which of them prevents it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeprune.allocation.exact import cheapest
from edgeprune.allocation.problem import Problem, Resource
from edgeprune.budget import keeps_to
from edgeprune.errors import BudgetError
from edgeprune.records import Unit
from edgeprune.report.figures import symbol

MOST = 100.0  # percent: what a budget may ask for
DOUBT = 0.15  # share by which narrow plans may cost less than predicted: only measuring tells then
KEY = {"ram": ("ram_kb", 1024.0), "flash": ("flash_kb", 1024.0)}


def require_reachable(
    problem: Problem, budget: float, unit: Unit, dense_cost: float | None = None
) -> None:
    """Make sure that some choice may keep to the main budget, and does to every resource.

    A little below the smallest predicted cost the main budget is not refused (`may_keep_to`): the
    closed loop measures.

    `dense_cost` is that of the model which budgets are shares of, where it is not the problem's:
    masks or linear collapse may have changed it before.

    Raises:
        BudgetError: none can; names the limit that prevents it, or those that contradict each
            other, with the smallest value that can be reached.
    """
    dense = dense_cost or problem.cost(problem.dense)
    alone = cheapest(replace(problem, resources=()))
    assert alone is not None  # without limits there is a choice
    if not may_keep_to(alone.cost, budget):
        raise unreachable(alone.cost, budget, unit, dense, "predicted")
    if not problem.resources:
        return
    for name, resource in problem.limits().items():
        rows = tuple(row for row in problem.resources if row.name == name)
        if cheapest(replace(problem, resources=rows)) is None:
            raise _out_of_reach(problem, rows, resource)
    together = cheapest(problem)
    limits = ", ".join(_said(resource) for resource in problem.limits().values())
    if together is None:
        raise BudgetError(
            f"the budgets contradict each other: each of {limits} can be reached alone, "
            "all at once cannot",
            "raise one of them in [budget]",
        )
    if not may_keep_to(together.cost, budget):
        raise BudgetError(
            f"the budgets contradict each other: within {limits} the smallest cost is "
            f"{together.cost:.4g} {symbol(unit)}, and the budget is {budget:.4g} {symbol(unit)} "
            f"(without them {alone.cost:.4g} {symbol(unit)} could be reached)",
            f"ask for at least {100 * together.cost / dense + 1:.0f}%, or raise one of the others",
        )


def may_keep_to(predicted: float, budget: float) -> bool:
    """Whether a plan with this predicted cost may turn out to keep to the budget."""
    return keeps_to(predicted * (1 - DOUBT), budget)


def unreachable(
    smallest: float, budget: float, unit: Unit, dense_cost: float, kind: str
) -> BudgetError:
    """Return the error for a main budget below the smallest cost; `kind` says how that is known."""
    least = 100 * smallest / dense_cost + 1
    digits = next((d for d in range(4, 9) if f"{budget:.{d}g}" != f"{smallest:.{d}g}"), 9)
    return BudgetError(
        f"the budget of {budget:.{digits}g} {symbol(unit)} cannot be reached: the smallest "
        f"reachable cost is {smallest:.{digits}g} {symbol(unit)} ({kind}), "
        f"{100 * smallest / dense_cost:.1f} % of dense",
        f"ask for at least {least:.0f}%"
        if least <= MOST
        else "next to nothing of the model can be cut",
    )


def over_limits(problem: Problem, found: Mapping[str, float]) -> BudgetError:
    """Return the error for plans that all took more of a resource than predicted and allowed."""
    over = {
        name: resource
        for name, resource in problem.limits().items()
        if not keeps_to(found.get(name, 0.0), resource.limit)
    }
    needs = ", ".join(f"{found[n]:,.0f} {symbol(r.unit)} of {n}" for n, r in over.items())
    return BudgetError(
        f"no plan kept to {', '.join(map(_said, over.values()))}: the last one took {needs}",
        "raise the limit a little",
    )


def _out_of_reach(problem: Problem, rows: tuple[Resource, ...], resource: Resource) -> BudgetError:
    smallest = 0.0
    for row in rows:
        least = cheapest(replace(problem, layers=row.terms, fixed=row.fixed, resources=()))
        assert least is not None
        smallest = max(smallest, least.cost)
    key, factor = KEY.get(resource.name, (resource.name, 1.0))
    return BudgetError(
        f"the budget {_said(resource)} cannot be reached: the smallest value at the offered widths "
        f"is {smallest:,.0f} {symbol(resource.unit)}, the dense model takes "
        f"{problem.used(problem.dense)[resource.name]:,.0f}",
        f"[budget] {key} must be at least {np.ceil(smallest / factor * 100) / 100:,.10g}",
    )


def _said(resource: Resource) -> str:
    return f"{resource.name} of {resource.limit:,.0f} {symbol(resource.unit)}"
