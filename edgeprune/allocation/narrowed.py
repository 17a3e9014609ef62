"""Parts of an allocation problem: fewer widths, wider plans, or inputs that stand still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeprune.allocation.problem import Choice, LayerTerm, Problem
from edgeprune.errors import InternalCheckError


def narrowed(problem: Problem, most: Mapping[str, int]) -> Problem:
    """Return `problem` with only those widths of each group that are at most `most[group]`.

    Raises:
        InternalCheckError: no width of a group is left.
    """
    counts = [
        sum(width <= most.get(name, widths[-1]) for width in widths)
        for name, widths in zip(problem.names, problem.widths, strict=True)
    ]
    for name, count in zip(problem.names, counts, strict=True):
        if not count:
            raise InternalCheckError(f"group {name} has no width of at most {most[name]}")

    def kept(term: LayerTerm) -> LayerTerm:
        ins = counts[term.group_in] if term.group_in is not None else 1
        outs = counts[term.group_out] if term.group_out is not None else 1
        return replace(term, costs=term.costs[:ins, :outs])

    return replace(
        problem,
        widths=tuple(w[:n] for w, n in zip(problem.widths, counts, strict=True)),
        losses=tuple(losses[:n] for losses, n in zip(problem.losses, counts, strict=True)),
        layers=tuple(map(kept, problem.layers)),
        resources=tuple(
            replace(resource, terms=tuple(map(kept, resource.terms)))
            for resource in problem.resources
        ),
    )


def widening(problem: Problem, choice: Choice) -> Problem:
    """Return `problem` with only those widths of each group that `choice` has, and wider ones.

    A branch that `choice` keeps can no longer be removed.
    """

    def kept(term: LayerTerm) -> LayerTerm:
        first_in = choice[term.group_in] if term.group_in is not None else 0
        first_out = choice[term.group_out] if term.group_out is not None else 0
        return replace(term, costs=term.costs[first_in:, first_out:])

    widths = problem.widths_of(choice)
    return replace(
        problem,
        widths=tuple(w[first:] for w, first in zip(problem.widths, choice, strict=True)),
        losses=tuple(x[first:] for x, first in zip(problem.losses, choice, strict=True)),
        layers=tuple(map(kept, problem.layers)),
        resources=tuple(
            replace(resource, terms=tuple(map(kept, resource.terms)))
            for resource in problem.resources
        ),
        blocks=tuple(block for block in problem.blocks if block.gone(widths)),
    )


def with_frozen_inputs(problem: Problem, choice: Choice) -> Problem:
    """Return `problem` with the input width of every layer held at its option in `choice`.

    A layer whose only group is at its input then has a constant cost. Depthwise layers, whose two
    sides are one group, stay as they are.
    """
    fixed, layers = problem.fixed, []
    for term in problem.layers:
        if term.group_in is None or term.group_in == term.group_out:
            layers.append(term)
            continue
        row = term.costs[choice[term.group_in]]
        if term.group_out is None:
            fixed += float(row[0])
        else:
            layers.append(replace(term, group_in=None, costs=np.array(row)[None, :]))
    return replace(problem, layers=tuple(layers), fixed=fixed)
