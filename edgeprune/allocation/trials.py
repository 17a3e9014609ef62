"""Plans of one cost compared by what they are after a short recovery.

What a plan loses before recovery says little of what it is after: narrow layers that a skip
connection hides lose little at first and hold training back later. So several plans of one
predicted cost are recovered for a few steps, side by side on the same batches (one rung of
successive halving, arXiv 1502.07943), and the one of least validation loss that the device measures
inside the budget is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgeprune.allocation.closed_loop import EDGE, FULL_USE
from edgeprune.allocation.correction import corrected
from edgeprune.allocation.exact import solve
from edgeprune.allocation.polishing import Choice, Groups, Polish
from edgeprune.allocation.problem import Problem
from edgeprune.records import PlanTrial, Round, WidthPlan

COUNT = 12  # plans tried, where the budget has as many
MEASURED = 4  # plans that may be measured on the device
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
    predicted: float


@dataclass(frozen=True)
class Trials:
    """What trials need.

    Args:
        polish: cuts and measures plans, and knows their problem.
        recovered: gives the validation loss of each plan before a short recovery and after.
        rankings: group -> criterion that ranks its channels.
        steps: of the short recovery, for the record.
        count: plans to try.
        seed: of the solver.
    """

    polish: Polish
    recovered: Callable[[Sequence[Groups]], list[tuple[float, float]]]
    rankings: dict[str, str]
    steps: int
    count: int = COUNT
    seed: int = 0

    def __call__(self, plan: WidthPlan) -> WidthPlan:
        """Return the plan that is best after a short recovery.

        Tried are the given `plan`, then in turn those of least summed loss, of least sum of squared
        losses, of the largest product of kept shares, and of the least sum of the first and the
        third, all predicted in [97 %, 100 %] of the budget. In the order of their losses they are
        measured on the device, until one is inside that window too; 4 at most.
        """
        polish = self.polish
        start = polish.choice_of(plan)
        if start == polish.problem.dense:
            return plan
        found = self._candidates(plan, start)
        if len(found) == 1:
            return plan
        losses = self.recovered([candidate.groups for candidate in found])
        for number, (candidate, (_, after)) in enumerate(zip(found, losses, strict=True), start=1):
            polish.note(
                f"trial {number} of {len(found)}: loss {after:.4f} after {self.steps} steps, "
                f"{100 * candidate.predicted / plan.budget:.1f} % of the budget predicted"
            )
        trials = tuple(
            PlanTrial(
                widths=polish.problem.widths_of(candidate.choice),
                predicted=candidate.predicted, start=before, loss=after, steps=self.steps,
            )
            for candidate, (before, after) in zip(found, losses, strict=True)
        )  # fmt: skip
        order = sorted(range(len(found)), key=lambda k: losses[k][1])
        return self._taken(plan.model_copy(update={"trials": trials}), [found[k] for k in order])

    def _taken(self, plan: WidthPlan, ordered: Sequence[_Candidate]) -> WidthPlan:
        """Return the first of the plans that the device measures inside the window, or `plan`."""
        polish, start = self.polish, self.polish.choice_of(plan)
        for candidate in ordered[:MEASURED]:
            if candidate.choice == start:
                break
            cost = polish.measure(candidate.groups)
            last = Round(
                widths=polish.problem.widths_of(candidate.choice),
                predicted=candidate.predicted,
                measured=cost.cost,
                low=cost.low,
                high=cost.high,
            )
            plan = plan.model_copy(update={"rounds": (*plan.rounds, last)})
            used = {**polish.problem.used(candidate.choice), **cost.resources}
            limits = polish.problem.limits()
            fits = all(used[name] <= limits[name].limit for name in limits)
            if fits and FULL_USE * plan.budget <= cost.cost <= plan.budget:
                return polish.changed(plan, candidate.choice, candidate.groups, cost.cost, used)
        return plan

    def _candidates(self, plan: WidthPlan, start: Choice) -> list[_Candidate]:
        """Return the given plan, and others that are predicted inside the window."""
        polish, seen = self.polish, self.polish.observed(plan)
        priced, objectives = corrected(polish.problem, seen), _objectives(polish.problem)
        measured = {tuple(one.choice) for one in seen}
        found = [_Candidate(start, plan.groups, plan.corrected)]
        for turn in range(self.count - 1):
            tried = {candidate.choice for candidate in found} | measured
            solution = solve(
                replace(priced, losses=objectives[turn % len(objectives)]),
                EDGE[1] * plan.budget, lower=EDGE[0] * plan.budget, without=tuple(sorted(tried)),
                seed=self.seed, seconds=SOLVER_SECONDS,
            )  # fmt: skip
            if solution is None:  # no other plan costs as much, whatever the objective
                break
            groups = polish.cut(solution.choice, self.rankings)
            found.append(_Candidate(solution.choice, groups, solution.cost))
        return found


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
