"""Allocator `halp` (arXiv 2210.06659): a knapsack of channels under latency."""

from __future__ import annotations

from dataclasses import replace

from edgeprune.allocation.exact import solve
from edgeprune.allocation.narrowed import narrowed, with_frozen_inputs
from edgeprune.allocation.task import Proposal, Task
from edgeprune.budget import keeps_to

STEPS = 10  # of the geometric schedule


def halp(task: Task, target: float) -> Proposal:
    """Return the widths of most importance whose latency HALP's knapsack holds within `target`.

    The chunks of channels are the stairs between offered widths. A chunk is worth the sum of its
    scores and costs what it adds to its own layers, with the input widths of the current model;
    chunks of a group go in order of score. The knapsack is solved exactly. The budget falls
    geometrically from dense to `target` in 10 steps, and after each step the input widths are
    those that it left. Scores are not normalised between groups, as in the paper.
    """
    scores, problem = task.spanning, task.problem
    losses = []
    for name, options in zip(problem.names, problem.widths, strict=True):
        ordered = scores[name].double().sort().values
        losses.append(tuple(float(ordered[: options[-1] - w].sum()) for w in options))
    problem = replace(problem, losses=tuple(losses))
    choice = tuple(len(options) - 1 for options in problem.widths)
    dense = problem.cost(choice)
    for step in range(1, STEPS + 1):
        budget = dense * (target / dense) ** (step / STEPS)
        if keeps_to(problem.cost(choice), budget):
            continue
        left = narrowed(problem, problem.widths_of(choice))
        found = solve(with_frozen_inputs(left, choice), budget, seed=task.seed)
        if found is not None:
            choice = found.choice
    return Proposal(task.best(problem.widths_of(choice)))
