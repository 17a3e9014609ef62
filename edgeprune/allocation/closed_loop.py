"""Solve, measure the plan whole, correct, solve again, until the budget is met and used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgeprune.allocation.correction import NOISE, Observation, corrected
from edgeprune.allocation.exact import Solution, cheapest, solve
from edgeprune.allocation.explanation import explain
from edgeprune.allocation.problem import Problem, observed
from edgeprune.allocation.reachable import (
    may_keep_to,
    over_limits,
    require_reachable,
    unreachable,
)
from edgeprune.budget import keeps_to
from edgeprune.records import PlannedGroup, ResourceUse, Round, Unit, WidthPlan
from edgeprune.report.figures import symbol

FULL_USE = 0.97  # a plan below this share of the budget leaves accuracy unused
AIM = (0.978, 0.990)  # of predictions: the middle of [FULL_USE, 1]
EDGE = (FULL_USE, 0.998)  # where widths are too coarse for the aim
# Where they are too coarse for that as well: what may turn out to fit, then wider and wider bands.
COARSE = ((0.96, 1.008), (0.93, 0.998), (0.88, 0.998), (0.8, 0.998), (0.6, 0.998), (0.0, 0.998))
GOOD = (0.972, 0.995)  # of measurements: no further round is needed
SECONDS = 20.0  # for the proven bound
ROUNDS = 4
BESIDE = 3  # plans a round, the first apart: prices that just failed may fail again
DENSE = "the dense model"
WIDTHS = "the offered widths"
FREE = 2  # rounds in which the solver may go anywhere


@dataclass(frozen=True)
class Measured:
    """Cost of a candidate measured whole, with its interval, in the device's unit.

    `resources` holds what was seen of limited resources, in the unit of their rows.
    """

    cost: float
    low: float
    high: float
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Tell whether it is a count, which comes out the same every time."""
        return self.low == self.high


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
    unit: Unit,
    dense_cost: float,
    seed: int = 0,
    explained: bool = True,
    note: Callable[[str], None] = lambda _: None,
) -> WidthPlan:
    """Return a plan whose measured cost lies in [97 %, 100 %] of `budget` if one can be found.

    Each round solves for the least loss with a predicted cost inside the aim, at prices corrected
    by all plans measured so far; choices already measured are excluded. Where the device tells what
    a plan takes of a limited resource, its rows are moved to what was seen. Where costs are counts,
    which need no reserve, further rounds look for a plan of less loss up to 99.8 % of the budget.
    If no round lands inside, the plan of least loss within the budget is taken. A budget just below
    all predictions is refused only after the cheapest plan was measured.

    Args:
        problem: widths, losses, prices, further limits.
        budget: limit in the device's unit.
        kept: group -> width to group -> channels that stay.
        measure: builds a plan's model and measures it whole.
        unit: the device's unit.
        dense_cost: cost of the dense model, for messages.
        seed: of the solver.
        explained: whether the plan says what its groups save and what more budget would buy.
        note: receives one line a round.

    Raises:
        BudgetError: a limit cannot be reached, or limits contradict each other.
    """
    require_reachable(problem, budget, unit, dense_cost)
    seen: list[Observation] = []
    rounds: list[Round] = []
    candidates: list[_Candidate] = []
    for number in range(1, ROUNDS + 1):
        tried: list[_Candidate] = []
        done = False
        for solution in _next(corrected(problem, seen), budget, candidates, number, seed):
            measured = measure(kept(problem.widths_of(solution.choice)))
            tried.append(_Candidate(solution, measured))
            problem = observed(problem, solution.choice, measured.resources)
            noise = (measured.high - measured.low) / (4 * measured.cost)  # of a 95 % interval
            seen.append(Observation(solution.choice, measured.cost, max(NOISE, noise)))
            note(
                f"round {number}: predicted {solution.cost:.4g}, found {measured.cost:.4g} "
                f"{symbol(unit)} = {100 * measured.cost / budget:.1f} % of the budget"
            )
            fits = _fits(measured, problem)
            held = keeps_to(measured.cost, budget) and bool(_held(problem, solution, budget))
            inside = fits and GOOD[0] * budget <= measured.cost <= GOOD[1] * budget
            done = (fits and held) or (inside and not measured.exact)
            if done or inside:
                break
        if not tried:
            break
        candidates += tried
        rounds.append(_round(problem, tried, budget))
        if done:
            break
    fitting = [c for c in candidates if _fits(c.measured, problem)]
    best = _best(fitting, budget)
    if not fitting:
        raise over_limits(problem, candidates[-1].measured.resources)
    if best is None:
        smallest = min(c.measured.cost for c in fitting)
        raise unreachable(smallest, budget, unit, dense_cost, "found")
    first = candidates[0]
    held = best.measured.cost < FULL_USE * budget
    used, dense = problem.used(best.solution.choice), problem.used(problem.dense)
    used |= best.measured.resources
    priced = corrected(problem, seen)
    return WidthPlan.model_validate(
        {
            "groups": kept(problem.widths_of(best.solution.choice)),
            "budget": budget,
            "unit": unit,
            "predicted": first.solution.cost,
            "predicted_error": first.solution.cost / first.measured.cost - 1,
            "corrected": best.measured.cost,
            "gap": _gap(priced, best.solution, budget, seed),
            "loss": best.solution.loss,
            "rounds": tuple(rounds),
            "resources": tuple(
                ResourceUse(
                    name=name,
                    unit=resource.unit,
                    limit=resource.limit,
                    used=used[name],
                    dense=dense[name],
                )
                for name, resource in problem.limits().items()
            ),
            "explanation": explain(priced, best.solution.choice, budget, unit)
            if explained
            else None,
            "removed": tuple(
                block
                for block in problem.blocks
                if block.gone(problem.widths_of(best.solution.choice))
            ),
            "held_by": (_held(problem, best.solution, budget) or (WIDTHS,)) if held else (),
        }
    )


def _gap(problem: Problem, solution: Solution, budget: float, seed: int) -> float | None:
    """Return by which share a plan within the budget may at most lose less, None if not proven.

    The plan itself was looked for in a narrow band of costs, so the gap of its own solution says
    nothing of cheaper and dearer plans.
    """
    bound = solve(problem, budget, seconds=SECONDS, seed=seed)
    if bound is None:  # prices that put every plan above the budget, or no time
        return None
    least = bound.loss * (1 - bound.gap)
    return max(0.0, 1 - least / solution.loss) if solution.loss > 0 else 0.0


def _round(problem: Problem, tried: list[_Candidate], budget: float) -> Round:
    """Return the record of a round: the plan nearest to the aim comes first."""
    order = sorted(tried, key=lambda c: abs(c.measured.cost - sum(AIM) / 2 * budget))
    plans = [
        {
            "widths": problem.widths_of(c.solution.choice),
            "predicted": c.solution.cost,
            "measured": c.measured.cost,
            "low": c.measured.low,
            "high": c.measured.high,
        }
        for c in order
    ]
    return Round.model_validate({**plans[0], "beside": plans[1:]})


def _fits(measured: Measured, problem: Problem) -> bool:
    limits = problem.limits()
    found = measured.resources.items()
    return all(keeps_to(value, limits[name].limit) for name, value in found if name in limits)


def _next(
    problem: Problem, budget: float, candidates: list[_Candidate], number: int, seed: int
) -> Iterator[Solution]:
    """Solve inside the aim; where no plan costs that much, in the first wider band that holds one.

    After FREE rounds plans close to the best measured one come first: a solver that may go anywhere
    goes where prices err most in its favour. In the last round they may be closer yet.
    Where a first plan has missed, a round has up to BESIDE plans, of which the others differ from
    the round's first in two groups at least. Where costs are counts and a plan is inside, the next
    one has to lose less.
    """
    tried = [candidate.solution.choice for candidate in candidates]
    found = _found([c for c in candidates if _fits(c.measured, problem)], budget)
    if found is not None and found.measured.exact:
        low, high = (share * budget for share in EDGE)
        better = solve(problem, high, lower=low, without=tried, seed=seed)
        if better is not None and better.loss < found.solution.loss:
            yield better
        return
    first = _solved(problem, budget, candidates, tried, number, seed)
    if first is None:
        return
    yield first
    tried.append(first.choice)
    for _ in range(1, BESIDE if candidates else 1):
        low, high = EDGE[0] * budget, AIM[1] * budget
        beside = solve(problem, high, lower=low, without=tried, unlike=first.choice, seed=seed)
        if beside is None:
            return
        yield beside
        tried.append(beside.choice)


def _solved(
    problem: Problem,
    budget: float,
    candidates: list[_Candidate],
    tried: Sequence[Sequence[int]],
    number: int,
    seed: int,
) -> Solution | None:
    low, high = AIM[0] * budget, AIM[1] * budget
    if problem.resources:
        free = solve(problem, high, without=tried, seed=seed)
        if free is not None and _held(problem, free, budget):
            return free
    if number > FREE:
        closest = min(candidates, key=lambda c: abs(c.measured.cost - (low + high) / 2))
        last = number == ROUNDS
        near = closest.solution.choice, max(1 if last else 2, len(problem.names) // 4)
        solution = solve(problem, high, lower=low, without=tried, near=near, seed=seed)
        if solution is not None:
            return solution
    for lowest, highest in (AIM, EDGE, *COARSE):
        solution = solve(problem, highest * budget, lower=lowest * budget, without=tried, seed=seed)
        if solution is not None:
            return solution
    if any(
        keeps_to(one.measured.cost, budget) and _fits(one.measured, problem) for one in candidates
    ):
        return None
    least = cheapest(problem)  # predicted to be above the budget: predictions may be wrong
    if least is None or least.choice not in tried:
        return least
    least = cheapest(problem, without=tried)
    return least if least is not None and may_keep_to(least.cost, budget) else None


def _best(candidates: list[_Candidate], budget: float) -> _Candidate | None:
    """Return the one of least loss that uses the budget in full, else that of all within it."""
    within = [c for c in candidates if keeps_to(c.measured.cost, budget)]
    return _found(within, budget) or min(within, key=lambda c: c.solution.loss, default=None)


def _found(candidates: list[_Candidate], budget: float) -> _Candidate | None:
    """Return the one of least loss that uses the budget in full, those with a reserve first."""
    fits = [c for c in candidates if keeps_to(c.measured.cost, budget)]
    full = [c for c in fits if c.measured.cost >= FULL_USE * budget]
    low, high = GOOD[0] * budget, GOOD[1] * budget
    sure = [c for c in full if c.measured.exact or low <= c.measured.cost <= high]
    return min(sure or full, key=lambda c: c.solution.loss, default=None)


def _held(problem: Problem, solution: Solution, budget: float) -> tuple[str, ...]:
    """Return what keeps a plan from using the budget: full resources, or that it is dense."""
    if solution.cost >= AIM[0] * budget:
        return ()
    limits = problem.limits()
    used = problem.used(solution.choice)
    full = tuple(name for name in limits if used[name] >= FULL_USE * limits[name].limit)
    return full or ((DENSE,) if solution.choice == problem.dense else ())
