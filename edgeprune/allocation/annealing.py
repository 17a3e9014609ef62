"""Allocator `annealing`: simulated annealing over widths."""

from __future__ import annotations

import math

import numpy as np

from edgeprune.allocation.search import Archive

START, END = 0.3, 0.01  # temperature, as a share of the loss of the first plan


def anneal(archive: Archive, target: float, random: np.random.Generator, most: int) -> None:
    """Walk over plans that cost about `target`, from plan to neighbour; plans go into `archive`.

    A neighbour widens one drawn group by a step and is narrowed in others until it fits the target
    again. It is taken with probability min(1, exp(-rise of the loss / temperature)) (Metropolis et
    al. 1953; Kirkpatrick et al. 1983); the temperature falls geometrically from 30 % to 1 % of the
    loss of the first plan.

    Args:
        archive: measures plans and keeps them.
        target: predicted cost.
        random: source of all draws.
        most: plans in the archive at which the walk ends.
    """
    sizes = [len(options) for options in archive.task.problem.widths]
    current = archive.drawn(random, target)
    loss = first = archive.measure(current)[1]
    steps = max(1, most - len(archive.found))
    for step in range(4 * steps):  # some neighbours are known already
        done = 1 - max(0, most - len(archive.found)) / steps
        if len(archive.found) >= most:
            break
        temperature = max(1e-12, abs(first) * START * (END / START) ** max(done, step / 4 / steps))
        wider = [*current]
        group = int(random.integers(len(sizes)))
        up = 1 if random.random() < 0.5 else -1
        wider[group] = min(max(0, wider[group] + up), sizes[group] - 1)
        neighbour = archive.fitted(tuple(wider), target, random)
        after = archive.measure(neighbour)[1]
        if after <= loss or random.random() < math.exp((loss - after) / temperature):
            current, loss = neighbour, after
