"""Plans of one cost compared by what they are after a short recovery.

What a plan loses before recovery says little of what it is after: narrow layers that a skip
connection hides lose little at first and hold training back later. So several plans that the device
measures inside the budget are recovered for a few steps, on the same batches, and the one of least
validation loss is taken: one rung of successive halving (arXiv 1502.07943). Where short recoveries
differ by less than their noise, what the plans lose before recovery decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgeprune.allocation.closed_loop import EDGE, FULL_USE
from edgeprune.allocation.correction import Observation, corrected
from edgeprune.allocation.exact import Solution, solve
from edgeprune.allocation.polishing import Choice, Groups, Polish, observation
from edgeprune.allocation.problem import Problem
from edgeprune.records import PlanTrial, Round, WidthPlan

SAME = 0.02  # of the least loss: what a short recovery cannot tell apart
COUNT = 8  # plans tried, where the budget has as many
MISSES = 3  # plans that may be measured outside the window
FEWEST, MOST = 100, 250  # steps of a trial
SOLVER_SECONDS = 10.0
Losses = tuple[tuple[float, ...], ...]


def trial_steps(steps: int) -> int:
    """Return how many steps a trial takes where recovery takes `steps`."""
    return min(steps, max(FEWEST, min(steps // 8, MOST)))


@dataclass(frozen=True)
class _Candidate:
    choice: Choice
    groups: Groups
    cost: float
    used: dict[str, float]


@dataclass(frozen=True)
class Trials:
    """What trials need.

    Args:
        polish: cuts and measures plans, and knows their problem.
        recovered: gives the validation loss of each plan after a short recovery.
        rankings: group -> criterion that ranks its channels.
        steps: of the short recovery, for the record.
        count: plans to try.
        seed: of the solver.
    """

    polish: Polish
    recovered: Callable[[Sequence[Groups]], list[float]]
    rankings: dict[str, str]
    steps: int
    count: int = COUNT
    seed: int = 0

    def __call__(self, plan: WidthPlan) -> WidthPlan:
        """Return the plan that is best after a short recovery.

        Tried are the given `plan`, then in turn those of least summed loss, of least sum of squared
        losses, of the largest product of kept shares, and of the least sum of the first and the
        third. Only plans count that the device measures in [97 %, 100 %] of the budget.
        """
        polish = self.polish
        start = polish.choice_of(plan)
        if start == polish.problem.dense:
            return plan
        used = {row.name: row.used for row in plan.resources}
        found = [_Candidate(start, plan.groups, plan.corrected, used)]
        plan = plan.model_copy(update={"rounds": self._look_around(plan, found)})
        if len(found) == 1:
            return plan
        losses = self.recovered([candidate.groups for candidate in found])
        for number, (candidate, loss) in enumerate(zip(found, losses, strict=True), start=1):
            polish.note(
                f"trial {number} of {len(found)}: loss {loss:.4f} after {self.steps} steps, "
                f"{100 * candidate.cost / plan.budget:.1f} % of the budget"
            )
        trials = tuple(
            PlanTrial(
                widths=polish.problem.widths_of(c.choice), cost=c.cost, loss=loss, steps=self.steps
            )
            for c, loss in zip(found, losses, strict=True)
        )
        plan = plan.model_copy(update={"trials": trials})
        close = [
            c for c, loss in zip(found, losses, strict=True) if loss <= (1 + SAME) * min(losses)
        ]
        best = min(close, key=lambda c: polish.loss(c.groups)) if len(close) > 1 else close[0]
        if best is found[0]:
            return plan
        return polish.changed(plan, best.choice, best.groups, best.cost, best.used)

    def _look_around(self, plan: WidthPlan, found: list[_Candidate]) -> tuple[Round, ...]:
        """Add plans inside the window to `found`; return the rounds of `plan` and of these."""
        polish, rounds, seen = self.polish, list(plan.rounds), self.polish.observed(plan)
        objectives, misses, turn = _objectives(polish.problem), 0, 0
        while len(found) < self.count and misses < MISSES:
            losses = objectives[turn % len(objectives)]
            tried = {c.choice for c in found} | {tuple(one.choice) for one in seen}
            solution = self._solved(losses, seen, tuple(sorted(tried)), plan.budget)
            if solution is None:  # no other plan costs as much, whatever the objective
                break
            groups = polish.cut(solution.choice, self.rankings)
            cost = polish.measure(groups)
            seen.append(observation(solution.choice, cost.cost, cost.low, cost.high))
            rounds.append(
                Round(
                    widths=polish.problem.widths_of(solution.choice),
                    predicted=solution.cost,
                    measured=cost.cost,
                    low=cost.low,
                    high=cost.high,
                )
            )
            used = {**polish.problem.used(solution.choice), **cost.resources}
            limits = polish.problem.limits()
            fits = all(used[name] <= limits[name].limit for name in limits)
            if fits and FULL_USE * plan.budget <= cost.cost <= plan.budget:
                found.append(_Candidate(solution.choice, groups, cost.cost, used))
                turn += 1
            else:
                misses += 1
        return tuple(rounds)

    def _solved(
        self, losses: Losses, seen: list[Observation], tried: tuple[Choice, ...], budget: float
    ) -> Solution | None:
        problem = replace(corrected(self.polish.problem, seen), losses=losses)
        return solve(
            problem, EDGE[1] * budget, lower=EDGE[0] * budget, without=tried, seed=self.seed,
            seconds=SOLVER_SECONDS,
        )  # fmt: skip


def _objectives(problem: Problem) -> tuple[Losses, ...]:
    """Return the losses of each option by each objective, each of mean 1."""
    summed = _scaled(problem.losses)
    squared = _scaled(tuple(tuple(x * x for x in group) for group in problem.losses))
    shares = _scaled(tuple(tuple(math.log(w[-1] / max(x, 0.5)) for x in w) for w in problem.widths))
    both = tuple(
        tuple(a + b for a, b in zip(one, other, strict=True))
        for one, other in zip(summed, shares, strict=True)
    )
    return summed, squared, shares, both


def _scaled(losses: Losses) -> Losses:
    values = [x for group in losses for x in group]
    mean = sum(values) / len(values)
    return tuple(tuple(x / mean if mean else x for x in group) for group in losses)
