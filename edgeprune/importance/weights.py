"""Criteria that look at weights alone: no data, no gradients.

torch-pruning scores convolutions, linear layers and normalisations; `rest` adds the layer types
that its classes pass over (depthwise convolutions, recurrent layers, embeddings and inputs of
grouped convolutions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from edgeprune.errors import UnscoredError
from edgeprune.importance.scoring import Scores, Scoring, gather
from edgeprune.pruning.channels import (
    CONVOLUTIONS,
    TRANSPOSED,
    Member,
    is_carrier,
    reads_in_parts,
)
from edgeprune.pruning.groups import group_scores, lamp_of
from edgeprune.pruning.recurrent import RECURRENT


def random(scoring: Scoring) -> Scores:
    """Uniform in [0, 1), seeded: the baseline that any other criterion has to beat."""
    generator = scoring.generator()
    return {name: torch.rand(width, generator=generator) for name, width in scoring.widths.items()}


def l1(scoring: Scoring) -> Scores:
    """Sum over w of abs(w[k]) (arXiv 1608.08710, over groups)."""
    return rest(scoring, "l1", scoring.weights(), lambda rows: rows.abs().sum(1))


def l2(scoring: Scoring) -> Scores:
    """Sum over w of w[k]^2 (arXiv 2301.12900, section 3.3)."""
    return rest(scoring, "l2", scoring.weights(), lambda rows: rows.square().sum(1))


def lamp(scoring: Scoring) -> Scores:
    """l2[k] / sum of l2[j] over the channels j with l2[j] >= l2[k] (arXiv 2010.07611)."""
    return {name: lamp_of(scores) for name, scores in l2(scoring).items()}


def fpgm(scoring: Scoring) -> Scores:
    """Sum over channels j of ||abs(w[k]) - abs(w[j])||_2 (arXiv 1811.00250, as torch-pruning).

    A channel close to the geometric median of all can be expressed by the others and goes first.
    Those that a grouped convolution consumes are compared by how each weighs in its own part.
    """
    return rest(
        scoring,
        "fpgm",
        scoring.weights(),
        lambda rows: torch.cdist(rows.abs(), rows.abs()).sum(1),
    )


def bn_scale(scoring: Scoring) -> Scores:
    """Sum of abs(gamma[k]) over the BatchNorm layers of the group (arXiv 1708.06519).

    Raises:
        UnscoredError: a group has no BatchNorm layer.
    """
    found = group_scores(scoring.model, scoring.data.example, "bn_scale", scoring.members)
    if stuck := [name for name in scoring.members if name not in found]:
        why = "none of its layers is a BatchNorm with a scale; they are "
        reasons = {name: f"{why}{scoring.kinds(scoring.members[name])}" for name in stuck}
        raise UnscoredError("bn_scale", reasons)
    return {name: found[name] for name in scoring.members}


def variance(scoring: Scoring) -> Scores:
    """Variance of all weights of channel k: mean(w^2) - mean(w)^2, over the whole group."""
    weights = scoring.weights()
    count = scoring.sums({name: torch.ones_like(w) for name, w in weights.items()})
    total = scoring.sums(weights)
    squares = scoring.sums({name: w.square() for name, w in weights.items()})
    return {
        name: (squares[name] / n - (total[name] / n).square()).clamp(min=0.0)
        for name, n in count.items()
    }


def rest(
    scoring: Scoring,
    criterion: str,
    values: Mapping[str, Tensor],
    of: Callable[[Tensor], Tensor],
) -> Scores:
    """Return torch-pruning's scores by `criterion` plus `of` what its classes pass over.

    Args:
        scoring: the model and its groups.
        criterion: name that torch-pruning's class goes by in `group_scores`.
        values: parameter -> tensor whose rows [channels, n] are scored.
        of: rows [channels, n] -> scores [channels].

    Raises:
        UnscoredError: a group has no layer that either can score, or torch-pruning fails at it.
    """
    known = group_scores(scoring.model, scoring.data.example, criterion, scoring.members)
    scores: Scores = {}
    for name, members in scoring.members.items():
        total = torch.zeros(len(members[0].indices), dtype=torch.float64)
        others = [m for m in members if _passed_over(scoring.layers[m.layer], m, criterion)]
        for member in others:
            rows = scoring.rows(member, values)
            if rows is not None:
                gather(of(rows).double(), member, total)
        if name in known:
            total += known[name].double()
        elif not others:
            raise UnscoredError(criterion, {name: f"it has {scoring.kinds(members)}"})
        scores[name] = total
    return scores


def _passed_over(layer: nn.Module, member: Member, criterion: str) -> bool:
    """Whether `group_scores` counts no weights of the layer on this side, but should."""
    if isinstance(layer, CONVOLUTIONS + TRANSPOSED):
        if is_carrier(layer):
            return criterion != "fpgm"  # depthwise ones count for nothing there
        return member.side == "in" and reads_in_parts(layer)
    return isinstance(layer, (nn.Embedding, *RECURRENT))
