"""What searches over widths share: a memory of measured plans, its Pareto front, the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from edgeprune.allocation.task import Point, Proposal, Task

EVALUATIONS = 240  # losses measured around a target
CLOSE = 0.95  # of the target: a search ends with a plan that costs at least this
Choice = tuple[int, ...]
Search = Callable[["Archive", float, np.random.Generator, int], None]


@dataclass(frozen=True)
class Archive:
    """Every plan whose loss was measured: an option for each group -> (cost, loss)."""

    task: Task
    found: dict[Choice, tuple[float, float]]

    def measure(self, choice: Choice) -> tuple[float, float]:
        """Return (predicted cost, measured loss) of a choice; each is measured once."""
        if choice not in self.found:
            problem = self.task.problem
            loss = self.task.loss(self.task.best(problem.widths_of(choice)))
            self.found[choice] = problem.cost(choice), loss
        return self.found[choice]

    def cost(self, choice: Sequence[int]) -> float:
        """Return the predicted cost of a choice."""
        return self.task.problem.cost(choice)

    def drawn(self, random: np.random.Generator, target: float) -> Choice:
        """Return a choice drawn so that its cost is close to, and if possible within, `target`."""
        sizes = [len(options) for options in self.task.problem.widths]
        return self.fitted(tuple(int(random.integers(size)) for size in sizes), target, random)

    def fitted(self, choice: Choice, target: float, random: np.random.Generator) -> Choice:
        """Return `choice` narrowed, or widened, in drawn groups until its cost fits `target`."""
        sizes = [len(options) for options in self.task.problem.widths]
        current = list(choice)
        while self.cost(current) > target and any(current):
            current[random.choice([g for g, k in enumerate(current) if k > 0])] -= 1
        for g in random.permutation(len(sizes)):
            while current[g] + 1 < sizes[g]:
                wider = [*current[:g], current[g] + 1, *current[g + 1 :]]
                if self.cost(wider) > target:
                    break
                current = wider
        return tuple(current)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other beats in both values, by the first value."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    kept: list[int] = []
    for i in order:
        if not kept or points[i][1] < points[kept[-1]][1]:
            kept.append(i)
    return kept


def searching(name: str, search: Search) -> Callable[[Task, float], Proposal]:
    """Return the allocator that runs `search` around a target and answers with the best within it.

    What was measured is kept for further targets: a search is run again only if nothing between
    95 % and 100 % of the target is known.
    """

    def allocate(task: Task, target: float) -> Proposal:
        found = cast(
            dict[Choice, tuple[float, float]], task.memory.setdefault((name, task.criterion), {})
        )
        archive = Archive(task, found)

        def near() -> list[Choice]:
            return [c for c, (cost, _) in found.items() if CLOSE * target <= cost <= target]

        if not near():
            generator = np.random.default_rng([task.seed, len(found)])
            search(archive, target, generator, len(found) + EVALUATIONS)
        within = near() or [c for c, (cost, _) in found.items() if cost <= target]
        if within:
            best = min(within, key=lambda c: found[c][1])
        else:
            best = min(found, key=lambda c: found[c][0])
        problem, choices = task.problem, list(found)
        points = tuple(
            Point(problem.widths_of(choices[i]), *found[choices[i]])
            for i in front([found[c] for c in choices])
        )
        return Proposal(task.best(problem.widths_of(best)), front=points)

    return allocate
