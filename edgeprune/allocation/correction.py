"""Prices corrected by whole plans that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.allocation.problem import Choice, LayerTerm, Problem

# Relative standard deviations of what the prices of single layers miss.
WHOLE = 0.1  # one factor for the whole model
LAYER = 0.08  # a factor for each layer
PRICE = 0.04  # an error of each single price
OVERHEAD = 0.05  # a constant cost of a run, as a share of the dense cost
NOISE = 0.004  # of a measurement of a whole plan


@dataclass(frozen=True)
class Observation:
    """The cost of a whole plan as the device gave it; `noise` is its relative standard error."""

    choice: Choice
    cost: float
    noise: float = NOISE


def corrected(problem: Problem, observations: Sequence[Observation]) -> Problem:
    """Return `problem` with the costs that are most likely after seeing `observations`.

    What the sum of the prices misses is taken as a sum of independent normal errors: a factor of
    the whole model, a factor of each layer, an error of each price, and a constant. Given measured
    plans, the expected cost (Gaussian process regression with that linear kernel: Rasmussen and
    Williams 2006, section 2.1) is again a sum over layers,

        cost'[l,i,j] = cost[l,i,j] (1 + sum_k a_k (WHOLE^2 m_k + LAYER^2 c_kl + PRICE^2 c_kl [k takes i,j]))
        a = (K + noise)^-1 (y - m)

    with y_k, m_k the measured and the predicted cost of plan k and c_kl the price of its layer l.
    So a single factor is not stretched over plans that err in different layers.
    """  # noqa: E501
    if not observations:
        return problem
    totals = np.array([problem.cost(o.choice) for o in observations])
    parts = np.array([[_price(term, o.choice) for term in problem.layers] for o in observations])
    same = np.array(
        [
            [[_at(t, a.choice) == _at(t, b.choice) for t in problem.layers] for b in observations]
            for a in observations
        ]
    ).reshape(len(observations), len(observations), len(problem.layers))
    scale = max(problem.cost([len(w) - 1 for w in problem.widths]), *totals)
    shared = np.einsum("al,bl->abl", parts, parts)
    kernel = WHOLE**2 * np.outer(totals, totals) + (OVERHEAD * scale) ** 2
    kernel += LAYER**2 * shared.sum(2) + PRICE**2 * (shared * same).sum(2)
    measured = np.array([o.cost for o in observations])
    kernel += np.diag([(o.noise * o.cost) ** 2 for o in observations])
    weights = np.linalg.solve(kernel, measured - totals)
    whole = WHOLE**2 * float(weights @ totals)
    layers = []
    for index, term in enumerate(problem.layers):
        factors = np.full(
            term.costs.shape, 1.0 + whole + LAYER**2 * float(weights @ parts[:, index])
        )
        for weight, observation, part in zip(weights, observations, parts[:, index], strict=True):
            factors[_at(term, observation.choice)] += PRICE**2 * weight * part
        layers.append(replace(term, costs=np.maximum(term.costs * factors, 0.1 * term.costs)))
    fixed = problem.fixed * (1.0 + whole) + (OVERHEAD * scale) ** 2 * float(weights.sum())
    return replace(problem, layers=tuple(layers), fixed=fixed)


def _at(term: LayerTerm, choice: Choice) -> tuple[int, int]:
    """Return the indices of the price that `choice` takes of a layer."""
    return (
        choice[term.group_in] if term.group_in is not None else 0,
        choice[term.group_out] if term.group_out is not None else 0,
    )


def _price(term: LayerTerm, choice: Choice) -> float:
    return float(term.costs[_at(term, choice)])
