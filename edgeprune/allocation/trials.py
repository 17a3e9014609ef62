"""Plans of one cost compared by what they are after a short recovery.

What a plan loses before recovery says little of what it is after: narrow layers that a skip
connection hides lose little at first and hold training back later. So several plans of one
predicted cost are recovered for a few steps, side by side on the same batches (one rung of
successive halving, arXiv 1502.07943), and the one of least validation loss that the device measures
inside the budget is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeprune.allocation.closed_loop import EDGE, FULL_USE
from edgeprune.allocation.correction import corrected
from edgeprune.allocation.exact import solve
from edgeprune.allocation.explanation import explain
from edgeprune.allocation.polishing import Choice, Groups, Polish
from edgeprune.allocation.problem import Problem
from edgeprune.budget import keeps_to
from edgeprune.records import PlanTrial, WidthPlan

COUNT = 12  # plans tried, where the budget has as many
LOOKED_AT = 3  # plans for one that is tried: narrower ones of the same cost are passed over
MEASURED = 4  # plans that may be measured on the device
MISSES = 2  # outside the window, after which more are tried
FEWEST, MOST = 100, 250  # steps of a trial
SOLVER_SECONDS = 10.0
TIE = 1e-3  # weight of the summed loss among plans that are as even
Losses = tuple[tuple[float, ...], ...]


def trial_steps(steps: int) -> int:
    """Return how many steps a trial takes where recovery takes `steps`."""
    return min(steps, max(FEWEST, min(steps // 8, MOST)))


@dataclass(frozen=True)
class _Candidate:
    """A plan, its predicted cost, and its validation loss before a short recovery and after."""

    choice: Choice
    groups: Groups
    predicted: float
    start: float = math.nan
    loss: float = math.nan


@dataclass(frozen=True)
class Trials:
    """What trials need.

    Args:
        polish: cuts and measures plans, and knows their problem.
        recovered: gives the validation loss of each plan before a short recovery and after.
        rankings: group -> criterion that ranks its channels.
        ranked: gives what a plan's groups keep where channels are ranked for that plan.
        steps: of the short recovery, for the record.
        count: plans to try in the first round.
        seed: of the solver.
    """

    polish: Polish
    recovered: Callable[[Sequence[Groups]], list[tuple[float, float]]]
    rankings: Mapping[str, str]
    ranked: Callable[[Groups], Groups]
    steps: int
    count: int = COUNT
    seed: int = 0

    def __call__(self, plan: WidthPlan) -> WidthPlan:
        """Return the plan that is best after a short recovery.

        Tried are the given `plan`, the one whose groups keep the most even shares, then in turn
        those of least summed loss, of least sum of squared losses, of the largest product of kept
        shares, and of the least sum of the first and the third, all predicted in [97 %, 99.8 %]
        of the budget, and none in which every group is at most as wide as in another. In the order
        of their losses they are measured on the device, until one is inside the budget's window;
        4 at most. Where two missed it, prices are corrected by what was measured, half as many
        more are tried, and 4 more may be measured.
        """
        start = self.polish.choice_of(plan)
        if start == self.polish.problem.dense:
            return plan
        plan = plan.model_copy(update={"groups": self.ranked(plan.groups)})
        taken = _Candidate(start, plan.groups, plan.corrected)
        tried = self._tried(plan, [taken], self.count - 1)
        if len(tried) == 1:
            return plan
        taken = tried[0]
        for more in (self.count // 2, 0):
            better = sorted((c for c in tried if c.loss < taken.loss), key=lambda c: c.loss)
            plan, taken, missed = self._taken(plan, taken, better)
            if missed < MISSES or not more:
                break
            tried += self._tried(plan, [], more, tuple(c.choice for c in tried))
        trials = tuple(
            PlanTrial(
                widths=self.polish.problem.widths_of(candidate.choice), steps=self.steps,
                predicted=candidate.predicted, start=candidate.start, loss=candidate.loss,
            )
            for candidate in tried
        )  # fmt: skip
        why = plan.explanation
        if why is not None and taken.choice == start:  # the loop's plan, now known to be better
            priced = self.polish.scaled(plan, start, plan.corrected)
            why = explain(priced, start, plan.budget, plan.unit, found_best=True)
        return plan.model_copy(update={"trials": trials, "explanation": why})

    def _tried(
        self, plan: WidthPlan, found: list[_Candidate], more: int, before: tuple[Choice, ...] = ()
    ) -> list[_Candidate]:
        """Return `found` and others, recovered for a short time side by side."""
        found = self._candidates(plan, found, more, before)
        if len(found) + len(before) < 2:  # with nothing to compare, nothing is trained
            return found
        losses = self.recovered([candidate.groups for candidate in found]) if found else []
        tried = []
        for candidate, (start, loss) in zip(found, losses, strict=True):
            tried.append(replace(candidate, start=start, loss=loss))
            self.polish.note(
                f"trial {len(before) + len(tried)}: loss {loss:.4f} after {self.steps} steps, "
                f"{100 * candidate.predicted / plan.budget:.1f} % of the budget predicted"
            )
        return tried

    def _taken(
        self, plan: WidthPlan, taken: _Candidate, better: Sequence[_Candidate]
    ) -> tuple[WidthPlan, _Candidate, int]:
        """Return the first of the better plans that the device measures inside the window.

        If there is none, `plan` of `taken` stays. The last value says how many missed.
        """
        polish = self.polish
        done = {tuple(one.choice) for one in polish.observed(plan)}
        waiting = [candidate for candidate in better if candidate.choice not in done]
        for number, candidate in enumerate(waiting[:MEASURED]):
            choice, groups = candidate.choice, candidate.groups
            last, used, fits = polish.measured(choice, groups, candidate.predicted)
            plan = plan.model_copy(update={"rounds": (*plan.rounds, last)})
            used_up = last.measured >= FULL_USE * plan.budget
            if fits and used_up and keeps_to(last.measured, plan.budget):
                changed = polish.changed(plan, choice, groups, last.measured, used)
                return changed, candidate, number
        return plan, taken, len(waiting[:MEASURED])

    def _candidates(
        self, plan: WidthPlan, found: list[_Candidate], more: int, before: tuple[Choice, ...]
    ) -> list[_Candidate]:
        """Return `found` and up to `more` other plans that are predicted inside the window."""
        polish, seen = self.polish, self.polish.observed(plan)
        priced = corrected(polish.problem, seen)
        first = [] if before else [_even(priced, plan.budget)]
        objectives = itertools.chain(first, itertools.cycle(_objectives(polish.problem)))
        known = {*before, *(tuple(one.choice) for one in seen), *(one.choice for one in found)}
        given, found, wanted = found, list(found), len(found) + more
        for losses in itertools.islice(objectives, LOOKED_AT * more):
            if len(found) == wanted:
                break
            solution = solve(
                replace(priced, losses=losses),
                EDGE[1] * plan.budget, lower=EDGE[0] * plan.budget, without=tuple(sorted(known)),
                seed=self.seed, seconds=SOLVER_SECONDS,
            )  # fmt: skip
            if solution is None:  # no other plan costs as much, whatever the objective
                break
            known.add(solution.choice)
            rivals = [*before, *(candidate.choice for candidate in found)]
            if any(_as_wide(rival, solution.choice) for rival in rivals):
                continue
            found = [c for c in found if c in given or not _as_wide(solution.choice, c.choice)]
            groups = self.ranked(polish.cut(solution.choice, self.rankings))
            found.append(_Candidate(solution.choice, groups, solution.cost))
        return found


def _as_wide(one: Choice, other: Choice) -> bool:
    """Whether `one` keeps at least as many channels of every group."""
    return all(a >= b for a, b in zip(one, other, strict=True))


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


def _even(problem: Problem, budget: float) -> Losses:
    """Return how far each option is from the share of channels that the budget lets all keep."""

    def nearest(share: float) -> Choice:
        return tuple(
            min(range(len(w)), key=lambda k: (abs(w[k] - share * w[-1]), k)) for w in problem.widths
        )

    shares = [percent / 100 for percent in range(1, 101)]
    share = max(
        (s for s in shares if keeps_to(problem.cost(nearest(s)), budget)), default=shares[0]
    )
    far = _scaled(
        tuple(
            tuple(math.log(max(x, 0.5) / (share * w[-1])) ** 2 for x in w) for w in problem.widths
        )
    )
    return tuple(
        tuple(a + TIE * b for a, b in zip(one, other, strict=True))
        for one, other in zip(far, _scaled(problem.losses), strict=True)
    )


def _scaled(losses: Losses) -> Losses:
    values = [x for group in losses for x in group]
    mean = sum(values) / len(values)
    return tuple(tuple(x / mean if mean else x for x in group) for group in losses)
