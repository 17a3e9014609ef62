"""Fused importance: what four families of measures say of a channel, in one score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from edgeprune.errors import UsageError
from edgeprune.importance.activations import watching
from edgeprune.importance.families import FAMILIES
from edgeprune.importance.scoring import Scores, Scoring

MEASURED_BATCHES = 4  # of 32 samples, on which each removal's loss is measured


def fused(scoring: Scoring) -> Scores:
    """Sum of weight * family over the families that are switched on.

    `simple`: equal weights. `adaptive`: in each group, weights in proportion to the family's
    coefficient of variation, its power to tell channels apart. `learned`: one set of non-negative
    weights for the model, fitted to measured loss increases.

    Raises:
        UsageError: the measured increases follow none of the families.
    """
    found = {name: FAMILIES[name](scoring) for name in dict.fromkeys(scoring.fused.families)}
    listed = {
        group: torch.stack([scores[group] for scores in found.values()])
        for group in scoring.members
    }  # group -> [families, width]
    if scoring.fused.fusion == "learned":
        weights = learned_weights(scoring, listed)
        return {group: weights @ families for group, families in listed.items()}
    if scoring.fused.fusion == "adaptive":
        return {group: adaptive_weights(families) @ families for group, families in listed.items()}
    return {group: families.mean(0) for group, families in listed.items()}


def adaptive_weights(families: Tensor) -> Tensor:
    """Return weights [families] in proportion to std / mean of each row; their sum is 1."""
    mean = families.mean(1)
    variation = torch.where(mean > 0, families.std(1, correction=0) / mean.clamp(min=1e-12), 0.0)
    if float(variation.sum()) == 0.0:
        return torch.full_like(variation, 1.0 / len(variation))
    return variation / variation.sum()


def learned_weights(scoring: Scoring, families: dict[str, Tensor]) -> Tensor:
    """Return non-negative weights [families] with which the families explain measured losses.

    From each group, one after the other, `removals` drawn sets of a quarter of its channels are
    masked, and the increase of the loss is measured. The weights w minimise the squared error of
    increase = sum over removed channels of w . families, every group in units of its own mean
    increase; they are scaled to a sum of 1.
    """
    generator = scoring.generator()
    removed: dict[str, list[int]] = {}

    def look(group: str, consumer: int, a: Tensor) -> Tensor | None:
        if group not in removed:
            return None
        return a.index_fill(2, torch.tensor(removed[group]), 0.0)

    batches = list(scoring.batches(labels=True, limit=MEASURED_BATCHES))

    def mean_loss() -> float:
        total = sum(float(scoring.loss(x, y)) * len(y) for x, y in batches)
        return total / sum(len(y) for _, y in batches)

    rows, increases = [], []
    with watching(scoring, look), torch.inference_mode():
        dense = mean_loss()
        for group, scores in families.items():
            width = scores.shape[1]
            measured = []
            for _ in range(scoring.fused.removals):
                drawn = torch.randperm(width, generator=generator)[: max(1, width // 4)]
                removed[group] = drawn.tolist()
                measured.append(mean_loss() - dense)
                rows.append(scores[:, drawn].sum(1))
            del removed[group]
            scale = sum(abs(value) for value in measured) / len(measured) or 1.0
            increases += [value / scale for value in measured]
    weights = non_negative(torch.stack(rows), torch.tensor(increases, dtype=torch.float64))
    if float(weights.sum()) == 0.0:
        raise UsageError(
            "importance fused: the measured loss increases follow none of the families "
            f"{', '.join(scoring.fused.families)}",
            'take fusion = "simple" or "adaptive", or more [prune.fused] removals',
        )
    return weights / weights.sum()


def non_negative(a: Tensor, b: Tensor) -> Tensor:
    """Return x >= 0 that minimises ||a x - b||_2, exactly, for a [rows, few].

    The optimum is the unconstrained one of some subset of columns: all subsets are tried.
    """
    columns = a.shape[1]
    best, least = torch.zeros(columns, dtype=a.dtype), float(b.square().sum())
    for count in range(1, columns + 1):
        for chosen in itertools.combinations(range(columns), count):
            x = _solve(a, b, chosen)
            error = float((a @ x - b).square().sum())
            if bool((x >= 0).all()) and error < least * (1 - 1e-12):
                best, least = x, error
    return best


def _solve(a: Tensor, b: Tensor, chosen: Sequence[int]) -> Tensor:
    part = a[:, list(chosen)]
    x = torch.zeros(a.shape[1], dtype=a.dtype)
    x[list(chosen)] = torch.linalg.lstsq(part, b[:, None], driver="gelsd").solution[:, 0]
    return x
