"""Allocator `evolutionary`: NSGA-II over widths.

It is written here because the library that has it brings plotting, automatic differentiation and a
dozen other packages along, for these hundred lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.allocation.search import Archive, Choice

POPULATION = 24
MUTATION = 1.5  # groups that a mutation changes on average
SPREAD = (0.9, 1.05)  # targets that the first population is drawn for
Values = Sequence[tuple[float, float]]


def evolve(archive: Archive, target: float, random: np.random.Generator, most: int) -> None:
    """Search the front of (predicted cost, measured loss) around `target`; plans go into `archive`.

    NSGA-II (Deb et al. 2002): parents are chosen by tournament, by rank of non-domination and then
    by crowding distance; uniform crossover and steps of one or two options give as many children;
    the best half of both lives on. The children are fitted to costs between 90 % and 105 % of the
    target, since a plan far from it is of no use.

    Args:
        archive: measures plans and keeps them.
        target: predicted cost.
        random: source of all draws.
        most: plans in the archive at which the search ends.
    """
    sizes = [len(options) for options in archive.task.problem.widths]

    def place() -> float:
        return target * random.uniform(*SPREAD)

    population = list({archive.drawn(random, place()): None for _ in range(POPULATION)})
    stale = 0
    while len(archive.found) < most and stale < 5:
        before = len(archive.found)
        values = [archive.measure(choice) for choice in population]
        ranks, crowding = sort(values)
        children: list[Choice] = []
        for _ in range(POPULATION):
            a, b = (
                min(
                    random.integers(len(population), size=2), key=lambda i: (ranks[i], -crowding[i])
                )
                for _ in range(2)
            )
            mask = random.random(len(sizes)) < 0.5
            child = np.where(mask, population[a], population[b])
            changed = random.random(len(sizes)) < MUTATION / len(sizes)
            child = child + changed * random.choice([-2, -1, 1, 2], size=len(sizes))
            clipped = np.clip(child, 0, np.array(sizes) - 1)
            children.append(archive.fitted(tuple(int(k) for k in clipped), place(), random))
        merged = list(dict.fromkeys([*population, *children]))
        values = [archive.measure(choice) for choice in merged]
        ranks, crowding = sort(values)
        order = sorted(range(len(merged)), key=lambda i: (ranks[i], -crowding[i]))
        population = [merged[i] for i in order[:POPULATION]]
        stale = stale + 1 if len(archive.found) == before else 0


def sort(values: Values) -> tuple[list[int], list[float]]:
    """Return each point's rank of non-domination (0: the front) and its crowding distance.

    The distance of a point is the sum over both values of the span between its two neighbours in
    its rank, over the span of the rank; that of the ends is infinite.
    """
    ranks = [-1] * len(values)
    crowding = [0.0] * len(values)
    left, rank = set(range(len(values))), 0
    while left:
        level = [i for i in left if not any(dominates(values[j], values[i]) for j in left)]
        for i in level:
            ranks[i] = rank
        for axis in (0, 1):
            ordered = sorted(level, key=lambda i: values[i][axis])
            span = values[ordered[-1]][axis] - values[ordered[0]][axis] or 1.0
            crowding[ordered[0]] = crowding[ordered[-1]] = float("inf")
            for before, i, after in zip(ordered, ordered[1:], ordered[2:], strict=False):
                crowding[i] += (values[after][axis] - values[before][axis]) / span
        left -= set(level)
        rank += 1
    return ranks, crowding


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether `a` is at least as good as `b` in both values, and better in one; less is better."""
    return a[0] <= b[0] and a[1] <= b[1] and a != b
