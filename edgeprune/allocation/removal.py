"""Removal of whole branches as one more option of their groups: width 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeprune.allocation.problem import LayerTerm, Problem, Resource
from edgeprune.errors import InternalCheckError
from edgeprune.records import ResidualBlock


def with_removals(
    problem: Problem, blocks: Sequence[ResidualBlock], losses: Mapping[str, float]
) -> Problem:
    """Return `problem` in which branches may go: their groups get option 0, of width 0.

    What the layers of a removed branch cost is 0, in the main cost and in every resource: each of
    them has a group of the branch at one end. So is what a term says to be spared. The loss of the
    removal stands at the first group. Branches of which a group is not part of the problem are left
    alone.

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

    def tied(term: LayerTerm) -> LayerTerm:
        """Let a term also depend on the branch without which it is spared.

        One between two groups outside the branch cannot, and counts as if it stayed.
        """
        for block in offered if term.spared else ():
            own = [problem.names.index(group) for group in block.groups]
            ends = {term.group_in, term.group_out} - {None}
            if not ends & set(own) and any(
                layer in block.layers and other not in block.layers for layer, other in term.spared
            ):
                if len(ends) > 1:
                    return term
                same = term.group_in == term.group_out is not None
                costs = np.diag(term.costs) if same else term.costs.ravel()
                options = len(problem.widths[own[0]])
                group = next(iter(ends), None)
                return replace(
                    term, group_in=own[0], group_out=group, costs=np.tile(costs, (options, 1))
                )
        return term

    def widened(term: LayerTerm) -> LayerTerm:
        before = int(term.group_in in grown), int(term.group_out in grown)
        costs = np.pad(term.costs, ((before[0], 0), (before[1], 0)))
        return replace(term, costs=costs)

    layers = tuple(widened(tied(term)) for term in problem.layers)
    free = {term.name for term in layers if term.group_in is None and term.group_out is None}
    return replace(
        problem,
        widths=tuple((0, *w) if g in grown else w for g, w in enumerate(problem.widths)),
        losses=tuple(
            (loss_of.get(problem.names[g], 0.0), *losses) if g in grown else losses
            for g, losses in enumerate(problem.losses)
        ),
        layers=tuple(term for term in layers if term.name not in free),
        fixed=problem.fixed + sum(float(t.costs.sum()) for t in layers if t.name in free),
        resources=_joined(
            replace(row, terms=tuple(widened(tied(term)) for term in row.terms))
            for row in problem.resources
        ),
        blocks=offered,
    )


def _joined(rows: Iterable[Resource]) -> tuple[Resource, ...]:
    """Return rows without doubles, in which what depends on the same groups is one term."""
    found: dict[object, Resource] = {}
    for row in rows:
        terms = [term for term in row.terms if not term.spared]
        fixed, sums = row.fixed, dict[tuple[int | None, int | None], LayerTerm]()
        for term in row.terms:
            ends = term.group_in, term.group_out
            if not term.spared:
                continue
            if ends == (None, None):
                fixed += float(term.costs.sum())
                continue
            before = sums.get(ends)
            costs = term.costs if before is None else before.costs + term.costs
            sums[ends] = LayerTerm(term.name, *ends, costs)
        terms += sums.values()
        key = row.name, fixed, *((t.group_in, t.group_out, t.costs.tobytes()) for t in terms)
        found.setdefault(key, replace(row, terms=tuple(terms), fixed=fixed))
    return tuple(found.values())
