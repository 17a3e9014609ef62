"""Solve, measure the plan whole, correct, solve again, until the budget is met and used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeprune.allocation.exact import Solution, cheapest, solve
from edgeprune.allocation.problem import Problem
from edgeprune.errors import BudgetError
from edgeprune.records import PlannedGroup, Round, WidthPlan

FULL_USE = 0.97  # a plan below this share of the budget leaves accuracy unused
AIM = (0.976, 0.990)  # of predictions: the middle of [FULL_USE, 1]
GOOD = (FULL_USE, 0.996)  # of measurements: no further round is needed
ROUNDS = 6


@dataclass(frozen=True)
class Measured:
    """Cost of a candidate measured whole, with its interval, in the device's unit."""

    cost: float
    low: float
    high: float


@dataclass(frozen=True)
class _Candidate:
    solution: Solution
    measured: Measured
    factor: float


def close_the_loop(
    problem: Problem,
    budget: float,
    *,
    kept: Callable[[Mapping[str, int]], dict[str, PlannedGroup]],
    measure: Callable[[dict[str, PlannedGroup]], Measured],
    unit: str,
    dense_cost: float,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> WidthPlan:
    """Return a plan whose measured cost lies in [97 %, 100 %] of `budget` if one can be found.

    Each round solves for the least loss with a predicted cost inside the aim, divided by the ratio
    of measured to predicted cost that the rounds so far have shown; choices already measured are
    excluded. If no round lands inside, the dearest plan within the budget is taken.

    Args:
        problem: widths, losses, prices.
        budget: limit in the device's unit.
        kept: group -> width to group -> channels that stay.
        measure: builds a plan's model and measures it whole.
        unit: the device's unit.
        dense_cost: cost of the dense model, for messages.
        seed: of the solver.
        note: receives one line a round.

    Raises:
        BudgetError: the budget lies below the smallest reachable cost.
    """
    floor = cheapest(problem)
    if floor.cost > budget:
        raise _unreachable(floor.cost, budget, unit, dense_cost, "predicted")
    factor = 1.0
    tried: list[tuple[int, ...]] = []
    rounds: list[Round] = []
    candidates: list[_Candidate] = []
    for number in range(1, ROUNDS + 1):
        solution = _next(problem, budget / factor, tuple(tried), seed)
        if solution is None:
            break
        groups = kept(problem.widths_of(solution.choice))
        measured = measure(groups)
        predicted = solution.cost * factor
        rounds.append(
            Round(
                widths=problem.widths_of(solution.choice),
                predicted=predicted,
                measured=measured.cost,
                low=measured.low,
                high=measured.high,
            )
        )
        candidates.append(_Candidate(solution, measured, factor))
        tried.append(solution.choice)
        note(
            f"round {number}: predicted {predicted:.4g}, found {measured.cost:.4g} {unit} "
            f"= {100 * measured.cost / budget:.1f} % of the budget"
        )
        if GOOD[0] * budget <= measured.cost <= GOOD[1] * budget:
            break
        factor = measured.cost / solution.cost
    best = _best(candidates, budget)
    if best is None:
        smallest = min((c.measured.cost for c in candidates), default=floor.cost)
        raise _unreachable(smallest, budget, unit, dense_cost, "found")
    first = candidates[0]
    return WidthPlan.model_validate(
        {
            "groups": kept(problem.widths_of(best.solution.choice)),
            "budget": budget,
            "unit": unit,
            "predicted": first.solution.cost,
            "predicted_error": first.solution.cost / first.measured.cost - 1,
            "corrected": best.measured.cost,
            "gap": best.solution.gap,
            "loss": best.solution.loss,
            "rounds": tuple(rounds),
        }
    )


def _next(
    problem: Problem, budget: float, tried: tuple[tuple[int, ...], ...], seed: int
) -> Solution | None:
    """Solve inside the aim; where no plan costs that much, within the budget."""
    low, high = AIM[0] * budget, AIM[1] * budget
    solution = solve(problem, high, lower=low, without=tried, seed=seed)
    if solution is None:
        solution = solve(problem, high, without=tried, seed=seed)
    return solution


def _best(candidates: list[_Candidate], budget: float) -> _Candidate | None:
    """Return the one of least loss that uses the budget in full, else the dearest within it."""
    within = [c for c in candidates if c.measured.cost <= budget]
    aimed = [c for c in within if GOOD[0] * budget <= c.measured.cost <= GOOD[1] * budget]
    full = aimed or [c for c in within if c.measured.cost >= FULL_USE * budget]
    if full:
        return min(full, key=lambda c: c.solution.loss)
    return max(within, key=lambda c: c.measured.cost, default=None)


def _unreachable(
    smallest: float, budget: float, unit: str, dense_cost: float, kind: str
) -> BudgetError:
    return BudgetError(
        f"the budget of {budget:.4g} {unit} cannot be reached: the smallest reachable cost is "
        f"{smallest:.4g} {unit} ({kind}), {100 * smallest / dense_cost:.1f} % of dense",
        f"ask for at least {100 * smallest / dense_cost + 1:.0f}%, or cut the [prune] keep list",
    )
