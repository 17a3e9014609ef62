"""Removal of whole branches as one more option of their groups: width 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeprune.allocation.problem import LayerTerm, Problem
from edgeprune.errors import InternalCheckError
from edgeprune.records import ResidualBlock


def with_removals(
    problem: Problem, blocks: Sequence[ResidualBlock], losses: Mapping[str, float]
) -> Problem:
    """Return `problem` in which branches may go: their groups get option 0, of width 0.

    What the layers of a removed branch cost is 0, in the main cost and in every resource: each of
    them has a group of the branch at one end. The loss of the removal stands at the first group.
    Branches of which a group is not part of the problem are left alone.

    Args:
        problem: the problem without removals.
        blocks: branches that can be removed.
        losses: last layer of a branch -> loss increase without it.

    Raises:
        InternalCheckError: a branch has no loss.
    """
    offered = tuple(b for b in blocks if all(group in problem.names for group in b.groups))
    for block in offered:
        if block.last not in losses:
            raise InternalCheckError(f"the branch that ends in {block.last} has no loss")
    loss_of = {block.groups[0]: max(0.0, losses[block.last]) for block in offered}
    grown = {problem.names.index(group) for block in offered for group in block.groups}

    def widened(term: LayerTerm) -> LayerTerm:
        before = int(term.group_in in grown), int(term.group_out in grown)
        costs = np.pad(term.costs, ((before[0], 0), (before[1], 0)))
        return replace(term, costs=costs)

    return replace(
        problem,
        widths=tuple((0, *w) if g in grown else w for g, w in enumerate(problem.widths)),
        losses=tuple(
            (loss_of.get(problem.names[g], 0.0), *losses) if g in grown else losses
            for g, losses in enumerate(problem.losses)
        ),
        layers=tuple(map(widened, problem.layers)),
        resources=tuple(
            replace(row, terms=tuple(map(widened, row.terms))) for row in problem.resources
        ),
        blocks=offered,
    )
