"""A plan changed in a few groups so that the loss of the whole plan falls at the same cost.

The sum of single-group losses leaves out what cuts do to each other: two narrow layers in a row may
lose far more than the sum of what each loses alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from edgeprune.allocation.closed_loop import GOOD, Measured
from edgeprune.allocation.correction import NOISE, Observation, corrected
from edgeprune.allocation.explanation import explain
from edgeprune.allocation.neighbours import nearest
from edgeprune.allocation.problem import Problem
from edgeprune.budget import keeps_to
from edgeprune.importance.normalisation import mean_rank
from edgeprune.importance.scores import keep_best
from edgeprune.records import ChannelGroup, PlannedGroup, Round, WidthPlan

Choice = tuple[int, ...]
Groups = dict[str, PlannedGroup]
LOOKED_AT, DESCENT = 14, 3  # neighbours whose loss is measured in a step down; steps
PASSES = 2  # over widths
MEASURED = 3  # plans that go to the device
GAIN = 0.01  # of the loss: what a change must win
GATES = "gates"
RANKINGS = 160  # tried in a pass over all groups


@dataclass(frozen=True)
class Polish:
    """What polishing needs.

    Args:
        problem: widths, losses and prices.
        scores: criterion -> group -> score of each channel [width], bundled.
        bundles: group -> which of its channels go together.
        loss: measures the loss increase of a whole plan.
        measure: builds a plan's model and measures its cost.
        gates: yields gates learned from what a plan keeps, bundled; None learns none.
        note: receives one line a step.
    """

    problem: Problem
    scores: Mapping[str, Mapping[str, Tensor]]
    bundles: Mapping[str, ChannelGroup]
    loss: Callable[[Mapping[str, PlannedGroup]], float]
    measure: Callable[[Groups], Measured]
    gates: Callable[[Groups], Iterator[Mapping[str, Tensor]]] | None = None
    note: Callable[[str], None] = lambda _: None

    def __call__(self, plan: WidthPlan) -> WidthPlan:
        """Return `plan`, or one that costs the same and loses less as a whole.

        1. Channels are ranked anew, group by group, beside the cuts of all others; then gates of
           all groups are learned together, if wanted.
        2. Descent over widths: of the plans that differ in at most 3 groups by at most 2 offered
           widths, predicted inside the window aimed at, the 14 of least summed loss are cut and
           their loss measured; the best is the next start, at most 3 times. The best found is
           measured on the device and taken if it is inside the budget's window; if not, prices are
           corrected by what was seen, and the descent goes on.
        3. If widths changed, both once more, with 3 plans measured on the device at the most.
        """
        seen = self.observed(plan)
        known = len(seen)
        polish, plan = self._chosen_in_context(plan)
        for _ in range(PASSES):
            moved = polish._other_widths(plan, seen, MEASURED - (len(seen) - known))
            if moved.groups == plan.groups:
                return moved
            polish, plan = polish._chosen_in_context(moved)
        return plan

    def _chosen_in_context(self, plan: WidthPlan) -> tuple[Polish, WidthPlan]:
        """Return `plan` with other channels, and a polish that knows the gates behind them."""
        plan = self._ranked_in_context(plan)
        if self.gates is None:
            return self, plan
        loss = before = self.loss(plan.groups)
        best, groups = self, plan.groups
        for gates in self.gates(plan.groups):
            others = {
                name: plan.groups[name].model_copy(
                    update={
                        "kept": keep_best(gate, plan.groups[name].after),
                        "criterion": GATES,
                    }
                )
                for name, gate in gates.items()
            }
            found = self.loss({**plan.groups, **others})
            if found < loss:
                loss, groups = found, {**plan.groups, **others}
                known = {**self.scores.get(GATES, {}), **gates}
                best = replace(self, scores={**self.scores, GATES: known})
        if loss < before:
            self.note(f"gates learned: whole loss {before:.4f} -> {loss:.4f}")
        return best, plan.model_copy(update={"groups": groups})

    def _other_widths(self, plan: WidthPlan, seen: list[Observation], most: int) -> WidthPlan:
        start = self.choice_of(plan)
        rankings = {name: group.criterion for name, group in plan.groups.items()}
        losses = {start: self.loss(plan.groups)}
        enough = losses[start] - GAIN * abs(losses[start])
        for _ in range(most):
            priced = corrected(self.problem, seen)
            self._descend(start, losses, priced, rankings, plan.budget)
            tried = {observation.choice for observation in seen}
            found = [
                c
                for c in losses
                if losses[c] < enough and c not in tried and _aimed(priced.cost(c), plan.budget)
            ]
            if not found:
                break
            choice = min(found, key=lambda c: losses[c])
            groups = self.cut(choice, rankings)
            last, used, fits = self.measured(choice, groups, priced.cost(choice))
            seen.append(observation(choice, last.measured, last.low, last.high))
            self.note(
                f"polished: whole loss {losses[start]:.4f} -> {losses[choice]:.4f}, "
                f"{100 * last.measured / plan.budget:.1f} % of the budget"
            )
            plan = plan.model_copy(update={"rounds": (*plan.rounds, last)})
            used_up = last.measured >= GOOD[0] * plan.budget
            if fits and used_up and keeps_to(last.measured, plan.budget):
                return self.changed(plan, choice, groups, last.measured, used)
        return plan

    def measured(
        self, choice: Choice, groups: Groups, predicted: float
    ) -> tuple[Round, dict[str, float], bool]:
        """Measure a plan; return the round, what it uses, and whether the other limits hold."""
        cost = self.measure(groups)
        last = Round(
            widths=self.problem.widths_of(choice), predicted=predicted,
            measured=cost.cost, low=cost.low, high=cost.high,
        )  # fmt: skip
        used = {**self.problem.used(choice), **cost.resources}
        limits = self.problem.limits()
        return last, used, all(keeps_to(used[name], limits[name].limit) for name in limits)

    def _descend(
        self,
        start: Choice,
        losses: dict[Choice, float],
        priced: Problem,
        rankings: Mapping[str, str],
        budget: float,
    ) -> None:
        """Measure the losses of neighbours of the best plan at these prices, and go on from it."""
        best = None
        for _ in range(DESCENT):
            aimed = [c for c in losses if c == start or _aimed(priced.cost(c), budget)]
            following = min(aimed, key=lambda c: losses[c])
            if following == best:
                break
            best = following
            for choice in nearest(priced, best, _aim(budget), LOOKED_AT, losses):
                losses[choice] = self.loss(self.cut(choice, rankings))

    def observed(self, plan: WidthPlan) -> list[Observation]:
        """Return what the closed loop saw of plans at offered widths."""
        seen = [found for r in plan.rounds for found in (r, *r.beside)]
        return [observation(self._at(f.widths), f.measured, f.low, f.high) for f in seen]

    def _ranked_in_context(self, plan: WidthPlan) -> WidthPlan:
        """Return `plan` with the ranking of each group that loses least beside the other cuts.

        A criterion that is best when a group is cut alone need not be so when all are. Tried are
        all criteria, and the mean ranks of two; groups that lose most alone come first. Widths, and
        so the cost, stay.
        """
        groups = dict(plan.groups)
        loss = before = self.loss(groups)
        alone = {
            name: self.problem.losses[g][option]
            for g, (name, option) in enumerate(
                zip(self.problem.names, self.choice_of(plan), strict=True)
            )
        }
        cut = [name for name, group in groups.items() if 0 < group.after < group.before]
        for name in sorted(cut, key=lambda n: -alone[n]):
            planned, tried = groups[name], {groups[name].kept}
            for criterion in self._rankings(name, RANKINGS // len(cut)):
                ranking = self._ranking(name, criterion)
                kept = keep_best(ranking, planned.after)
                if kept in tried:
                    continue
                tried.add(kept)
                other = planned.model_copy(update={"kept": kept, "criterion": criterion})
                found = self.loss({**groups, name: other})
                if found < loss:
                    groups[name], loss = other, found
        if loss < before:
            self.note(f"ranked in context: whole loss {before:.4f} -> {loss:.4f}")
        return plan.model_copy(update={"groups": groups})

    def _ranking(self, group: str, criteria: str) -> Tensor:
        return mean_rank(_of_group(self.scores, group), criteria, self.bundles[group])

    def _rankings(self, group: str, most: int) -> list[str]:
        """Return a group's criteria, then pairs of them: `most`, but all criteria at least."""
        criteria = list(_of_group(self.scores, group))
        pairs = ["+".join(pair) for pair in itertools.combinations(criteria, 2)]
        return [*criteria, *pairs[: max(0, most - len(criteria))]]

    def cut(self, choice: Choice, rankings: Mapping[str, str]) -> Groups:
        """Return what each group keeps at the widths of `choice`."""
        found = {}
        for name, width in self.problem.widths_of(choice).items():
            ranking = self._ranking(name, rankings[name])
            found[name] = PlannedGroup(
                before=len(ranking),
                after=width,
                kept=keep_best(ranking, width) if width else (),
                criterion=rankings[name],
            )
        return found

    def choice_of(self, plan: WidthPlan) -> Choice:
        """Return the option that a plan takes of each group."""
        return self._at({name: group.after for name, group in plan.groups.items()})

    def _at(self, widths: Mapping[str, int]) -> Choice:
        options = zip(self.problem.names, self.problem.widths, strict=True)
        return tuple(offered.index(widths[name]) for name, offered in options)

    def changed(
        self,
        plan: WidthPlan,
        choice: Choice,
        groups: Groups,
        cost: float,
        used: Mapping[str, float],
    ) -> WidthPlan:
        """Return the plan at `choice`; the proven bound of the sum stays what it was."""
        total = self.problem.loss(choice)
        bound = plan.loss * (1 - (plan.gap or 0.0))
        priced = self.scaled(plan, choice, cost)
        update = {
            "groups": groups,
            "removed": tuple(b for b in priced.blocks if b.gone(priced.widths_of(choice))),
            "corrected": cost,
            "held_by": (),  # only plans that use the budget in full are taken
            "loss": total,
            "gap": None if plan.gap is None else max(0.0, 1 - bound / total) if total > 0 else 0.0,
            "resources": tuple(
                row.model_copy(update={"used": used[row.name]}) for row in plan.resources
            ),
            "explanation": explain(priced, choice, plan.budget, plan.unit, found_best=True),
        }
        return plan.model_copy(update=update)

    def scaled(self, plan: WidthPlan, choice: Choice, cost: float) -> Problem:
        """Return the problem at corrected prices by which `choice` costs what was found."""
        priced = corrected(self.problem, self.observed(plan))
        scale = cost / priced.cost(choice)
        layers = tuple(replace(t, costs=scale * t.costs) for t in priced.layers)
        return replace(priced, layers=layers, fixed=scale * priced.fixed)


def _of_group(scores: Mapping[str, Mapping[str, Tensor]], name: str) -> dict[str, Tensor]:
    return {c: by_group[name] for c, by_group in scores.items() if name in by_group}


def _aimed(cost: float, budget: float) -> bool:
    low, high = _aim(budget)
    return low <= cost <= high


def _aim(budget: float) -> tuple[float, float]:
    return GOOD[0] * budget, GOOD[1] * budget


def observation(choice: Choice, cost: float, low: float, high: float) -> Observation:
    """Return what a measurement with its 95 % interval says of a plan."""
    return Observation(choice, cost, max(NOISE, (high - low) / (4 * cost)))
