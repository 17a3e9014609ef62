"""Solve, measure the plan whole, correct, solve again, until the budget is met and used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeprune.allocation.correction import NOISE, Observation, corrected
from edgeprune.allocation.exact import Solution, cheapest, solve
from edgeprune.allocation.problem import Problem, build_problem, flat_curves
from edgeprune.errors import BudgetError
from edgeprune.records import CostTable, PlannedGroup, Round, WidthPlan

FULL_USE = 0.97  # a plan below this share of the budget leaves accuracy unused
AIM = (0.978, 0.990)  # of predictions: the middle of [FULL_USE, 1]
GOOD = (0.972, 0.995)  # of measurements: no further round is needed
ROUNDS = 6
FREE = 2  # rounds in which the solver may go anywhere


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

    Each round solves for the least loss with a predicted cost inside the aim, at prices corrected
    by all plans measured so far; choices already measured are excluded.
    If no round lands inside, the dearest plan within the budget is taken.

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
    seen: list[Observation] = []
    rounds: list[Round] = []
    candidates: list[_Candidate] = []
    for number in range(1, ROUNDS + 1):
        solution = _next(corrected(problem, seen), budget, candidates, seed)
        if solution is None:
            break
        measured = measure(kept(problem.widths_of(solution.choice)))
        rounds.append(
            Round(
                widths=problem.widths_of(solution.choice),
                predicted=solution.cost,
                measured=measured.cost,
                low=measured.low,
                high=measured.high,
            )
        )
        candidates.append(_Candidate(solution, measured))
        noise = (measured.high - measured.low) / (4 * measured.cost)  # of a 95 % interval
        seen.append(Observation(solution.choice, measured.cost, max(NOISE, noise)))
        note(
            f"round {number}: predicted {solution.cost:.4g}, found {measured.cost:.4g} {unit} "
            f"= {100 * measured.cost / budget:.1f} % of the budget"
        )
        if GOOD[0] * budget <= measured.cost <= GOOD[1] * budget:
            break
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


def require_reachable(table: CostTable, budget: float) -> None:
    """Make sure, before losses are measured, that the cheapest widths are within `budget`.

    Raises:
        BudgetError: they are not.
    """
    floor = cheapest(build_problem(table, flat_curves(table))).cost
    if floor > budget:
        raise _unreachable(floor, budget, table.unit, table.dense_cost, "predicted")


def _next(
    problem: Problem, budget: float, candidates: list[_Candidate], seed: int
) -> Solution | None:
    """Solve inside the aim; where no plan costs that much, within the budget.

    After FREE rounds only plans close to the best measured one are considered: a solver that may
    go anywhere goes where prices err most in its favour.
    """
    low, high = AIM[0] * budget, AIM[1] * budget
    tried = tuple(candidate.solution.choice for candidate in candidates)
    if len(candidates) >= FREE:
        closest = min(candidates, key=lambda c: abs(c.measured.cost - (low + high) / 2))
        near = closest.solution.choice, max(2, len(problem.names) // 4)
        solution = solve(problem, high, lower=low, without=tried, near=near, seed=seed)
        if solution is not None:
            return solution
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
