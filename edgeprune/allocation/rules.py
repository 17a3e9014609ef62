"""Allocators that follow a rule with one knob: how much is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from edgeprune.allocation.task import Kept, Proposal, Task
from edgeprune.importance import rules
from edgeprune.importance.normalisation import normalise
from edgeprune.pruning.ranking import torch_pruning_keeps

STEPS = 256  # of a knob
Rule = Callable[[Task, float], Kept]


def uniform(task: Task, share: float) -> Kept:
    """Cut `share` of every group, by torch-pruning's local pruning."""
    scores = {name: task.ranking(name) for name in task.table.widths}
    return torch_pruning_keeps(task.model, task.data.example, scores, share, round_to=task.round_to)


def one_ranking(task: Task, share: float) -> Kept:
    """Cut `share` of all channels in one ranking, by torch-pruning's global pruning."""
    return torch_pruning_keeps(
        task.model, task.data.example, normalise(task.spanning, task.normalise), share,
        one_ranking=True, round_to=task.round_to,
    )  # fmt: skip


def isomorphic(task: Task, share: float) -> Kept:
    """Cut `share` of the channels of each set of groups of equal structure (arXiv 2407.04616)."""
    return torch_pruning_keeps(
        task.model, task.data.example, normalise(task.spanning, task.normalise), share,
        isomorphic=True, round_to=task.round_to,
    )  # fmt: skip


def retention(task: Task, _knob: float) -> Kept:
    """Keep the smallest set of each group that holds a share of its importance; it has no knob."""
    scores = {name: task.ranking(name) for name in task.table.widths}
    return task.best(rules.retention(scores))


def adaptive_alpha(task: Task, alpha: float) -> Kept:
    """Cut alpha * (1 + cv of its absolute weights) of each group, 90 % at most."""
    layers = dict(task.model.named_modules())
    weights = {
        name: next(p.detach() for p in layers[name].parameters() if p.ndim > 1)
        for name in task.table.widths
    }
    return task.best(rules.adaptive_alpha(task.widths, weights, alpha))


def layer_adaptive(task: Task, target: float) -> Kept:
    """Cut target * (1 - sensitivity) of each group, 10 % to 80 %.

    Sensitivity is the mean of a group's loss curve over the largest of these means.
    """
    means = {
        name: sum(max(0.0, value) for value in curve.increases) / len(curve.increases)
        for name, curve in task.curves.items()
    }
    most = max(means.values()) or 1.0
    sensitivity = {name: mean / most for name, mean in means.items()}
    return task.best(rules.layer_adaptive(task.widths, sensitivity, target))


def within(rule: Rule, most: float) -> Callable[[Task, float], Proposal]:
    """Return the allocator that turns the knob of `rule` just far enough for a predicted cost.

    The knob has 257 places from 0 to `most`; the lowest whose predicted cost is within the target
    is taken. All are looked at, from the lowest on: costs do not fall steadily, since widths that
    fill their tiles can be cheaper than narrower ones. If none is within, the cheapest is taken.
    """

    def allocate(task: Task, target: float) -> Proposal:
        def at(step: int) -> Kept:
            key = (rule.__name__, task.criterion, task.round_to, task.normalise, step)
            if key not in task.memory:
                task.memory[key] = task.allowed(rule(task, most * step / STEPS))
            return cast(Kept, task.memory[key])

        def cost(step: int) -> float:
            return task.cost({n: len(k) for n, k in at(step).items()})

        places = range(STEPS + 1)
        found = next((step for step in places if cost(step) <= target), None)
        return Proposal(at(min(places, key=cost) if found is None else found))

    return allocate
