"""Every allocator by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgeprune.allocation import rules
from edgeprune.allocation.annealing import anneal
from edgeprune.allocation.evolutionary import evolve
from edgeprune.allocation.exact import cheapest, solve
from edgeprune.allocation.halp import halp
from edgeprune.allocation.netadapt import netadapt
from edgeprune.allocation.penalty import hardware_penalty
from edgeprune.allocation.rules import within
from edgeprune.allocation.search import searching
from edgeprune.allocation.task import Proposal, Task
from edgeprune.errors import UsageError
from edgeprune.methods import unknown


class Allocator(NamedTuple):
    """One allocator.

    Args:
        propose: the channels to keep for a predicted cost, in the device's unit.
        steerable: whether the target changes what it proposes; a rule without a knob is not.
        rounds: whether `round_to` means something to it.
        spanning: whether one ranking spans groups, so that a single criterion serves all of them.
        drawn: whether it depends on the seed.
    """

    propose: Callable[[Task, float], Proposal]
    steerable: bool = True
    rounds: bool = False
    spanning: bool = False
    drawn: bool = False


def exact(task: Task, target: float) -> Proposal:
    """Return the widths of least summed loss within a predicted cost of `target`, with their gap.

    This is one solution at the table's prices; a job solves again as plans are measured.
    """
    found = solve(task.problem, target, seed=task.seed) or cheapest(task.problem)
    assert found is not None  # a problem without further limits has a solution
    return Proposal(task.best(task.problem.widths_of(found.choice)), gap=found.gap)


ALLOCATORS: dict[str, Allocator] = {
    "exact": Allocator(exact),
    "uniform": Allocator(within(rules.uniform, 1.0), rounds=True),
    "global": Allocator(within(rules.one_ranking, 1.0), rounds=True, spanning=True),
    "isomorphic": Allocator(within(rules.isomorphic, 1.0), rounds=True, spanning=True),
    "retention": Allocator(within(rules.retention, 1.0), steerable=False),
    "adaptive_alpha": Allocator(within(rules.adaptive_alpha, 1.0)),
    "layer_adaptive": Allocator(within(rules.layer_adaptive, 4.0)),
    "hardware_penalty": Allocator(hardware_penalty),
    "netadapt": Allocator(netadapt),
    "halp": Allocator(halp, spanning=True),
    "evolutionary": Allocator(searching("evolutionary", evolve), drawn=True),
    "annealing": Allocator(searching("annealing", anneal), drawn=True),
}


def allocator(name: str) -> Allocator:
    """Return the allocator called `name`.

    Raises:
        UsageError: there is none; lists the known.
    """
    if name not in ALLOCATORS:
        raise UsageError(unknown("allocation", name, tuple(ALLOCATORS)), "edgeprune methods")
    return ALLOCATORS[name]
