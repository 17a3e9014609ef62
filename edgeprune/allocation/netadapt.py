"""Allocator `netadapt` (arXiv 1804.03230): step by step, the group that loses least."""

from __future__ import annotations

from typing import cast

from edgeprune.allocation.task import Proposal, Task

FIRST, DECAY, LEAST = 0.025, 0.96, 0.01  # of the dense cost: a step, its decay, the smallest step


def netadapt(task: Task, target: float) -> Proposal:
    """Return the widths that NetAdapt reaches for a predicted cost of at most `target`.

    Step i asks for a cost 2.5 % * 0.96^(i-1) of dense below the current one. For each group the
    widest width that meets it is tried, all other groups as they are, and the loss of the whole
    model measured (BatchNorm recalibrated in place of the short fine-tuning of the paper); the
    proposal with the least loss per cost saved is taken. Steps are never smaller than 1 % of
    dense: their sum would end at 62.5 %, and tighter budgets could not be reached.
    """
    problem = task.problem
    path = cast(list[tuple[int, ...]], task.memory.setdefault(("netadapt", task.criterion), []))
    if not path:
        path.append(tuple(len(options) - 1 for options in problem.widths))
    dense = problem.cost(path[0])
    while problem.cost(path[-1]) > target:
        step = max(LEAST, FIRST * DECAY ** (len(path) - 1)) * dense
        wanted = problem.cost(path[-1]) - step
        after = _next(task, path[-1], max(wanted, target))
        if after is None:
            break
        if wanted < target:  # the last step is shorter, and no part of the path to other targets
            return Proposal(task.best(problem.widths_of(after)))
        path.append(after)
    found = next((c for c in path if problem.cost(c) <= target), path[-1])
    return Proposal(task.best(problem.widths_of(found)))


def _next(task: Task, choice: tuple[int, ...], wanted: float) -> tuple[int, ...] | None:
    """Return the best proposal whose cost is at most `wanted`, else the cheapest, None if stuck."""
    problem = task.problem
    before = problem.cost(choice)
    loss = task.loss(task.best(problem.widths_of(choice)))
    best: tuple[float, tuple[int, ...]] | None = None
    for g, option in enumerate(choice):
        narrower = [(*choice[:g], k, *choice[g + 1 :]) for k in range(option - 1, -1, -1)]
        proposal = next((c for c in narrower if problem.cost(c) <= wanted), None)
        if proposal is None:
            continue
        rise = task.loss(task.best(problem.widths_of(proposal))) - loss
        rate = rise / (before - problem.cost(proposal))
        if best is None or rate < best[0]:
            best = rate, proposal
    if best is not None:
        return best[1]
    cheaper = [(*choice[:g], 0, *choice[g + 1 :]) for g, option in enumerate(choice) if option > 0]
    return min(cheaper, key=problem.cost, default=None)
