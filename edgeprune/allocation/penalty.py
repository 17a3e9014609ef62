"""Allocator `hardware_penalty`: greedy by importance over hardware cost."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgeprune.allocation.task import Proposal, Task


@dataclass(frozen=True)
class Prior:
    """What hardware is taken to cost where nothing was measured, in arbitrary units.

    Args:
        convolution: of a channel of a convolution.
        linear: of a neuron of a linear layer.
        parameter: of a parameter.
    """

    convolution: float
    linear: float
    parameter: float


PRIORS = {
    "cpu": Prior(1.0, 0.5, 0.1),
    "gpu": Prior(0.8, 0.3, 0.15),
    "microcontroller": Prior(2.0, 1.0, 0.5),
}


def hardware_penalty(task: Task, target: float) -> Proposal:
    """Return widths found by taking, again and again, the cheapest step per cost that it saves.

    It minimises accuracy loss + lambda * hardware cost: a step of a group to its next narrower
    width removes the channels of least score; the step with the least (score removed / cost saved)
    is taken until the predicted cost is within `target`. Scores of a group are divided by their
    sum. The cost saved is measured; only where the table holds estimates does the device's prior
    (`PRIORS`) stand for it.
    """
    prior = PRIORS[task.kind] if task.table.kind == "estimated" else None
    problem = task.problem
    removed = []
    for name, options in zip(problem.names, problem.widths, strict=True):
        ordered = task.ranking(name).double().sort().values
        total = float(ordered.sum()) or 1.0
        removed.append([float(ordered[: options[-1] - w].sum()) / total for w in options])
    saved_each = [saving(task.model, task, name, prior) if prior else 0.0 for name in problem.names]
    choice = [len(options) - 1 for options in problem.widths]
    while problem.cost(choice) > target:
        best: tuple[float, int] | None = None
        for g, option in enumerate(choice):
            if option == 0:
                continue
            after = [*choice]
            after[g] = option - 1
            if prior:
                saved = saved_each[g] * (problem.widths[g][option] - problem.widths[g][option - 1])
            else:
                saved = problem.cost(choice) - problem.cost(after)
            lost = removed[g][option - 1] - removed[g][option]
            ratio = lost / saved if saved > 0 else float("inf")
            if best is None or ratio < best[0]:
                best = ratio, g
        if best is None:
            break
        choice[best[1]] -= 1
    return Proposal(task.best(problem.widths_of(choice)))


def saving(model: nn.Module, task: Task, name: str, prior: Prior) -> float:
    """Return what a channel of group `name` costs by `prior`, all other groups being dense."""
    layers = dict(model.named_modules())
    group = next(group for group in task.groups if group.name == name)
    total = 0.0
    for layer in group.outputs:
        linear = isinstance(layers[layer], nn.Linear)
        total += prior.linear if linear else prior.convolution
    for layer in (*group.outputs, *group.inputs, *group.carriers):
        count = sum(p.numel() for p in layers[layer].parameters(recurse=False))
        total += prior.parameter * count / group.width
    return total
