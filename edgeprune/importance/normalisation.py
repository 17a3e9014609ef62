"""Scores of different groups made comparable, and the channels that a share of them leaves.

A score ranks channels within its group. For one ranking of the whole model each group is first
brought to a common size; which way suits depends on the criterion (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgeprune.errors import UsageError
from edgeprune.importance.scores import bundled, keep_best
from edgeprune.pruning.groups import lamp_of
from edgeprune.records import ChannelGroup

TINY = 1e-12
NORMALISATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda s: s,
    "sum": lambda s: s / _safe(s.sum()),
    "mean": lambda s: s / _safe(s.mean()),
    "max": lambda s: s / _safe(s.max()),
    "l2": lambda s: s / _safe(s.norm()),
    "minmax": lambda s: (s - s.min()) / _safe(s.max() - s.min()),
    "gaussian": lambda s: (s - s.mean()) / _safe(s.std(correction=0)),
    "lamp": lamp_of,
    "rank": lambda s: s.argsort().argsort().to(s.dtype) / max(1, len(s) - 1),
}


def _safe(size: Tensor) -> Tensor:
    return torch.where(size.abs() > TINY, size, 1.0)


def normalise(scores: Mapping[str, Tensor], how: str) -> dict[str, Tensor]:
    """Return every group's scores [width] divided by, or placed within, the size of its group.

    `sum`, `mean`, `max`, `l2`: over that of the group; `minmax`: to [0, 1]; `gaussian`:
    (s - mean) / std; `lamp`: over the sum of scores not smaller; `rank`: place among the channels
    of the group, from 0 to 1; `none`: as they are.

    Raises:
        UsageError: no such normalisation.
    """
    if how not in NORMALISATIONS:
        raise UsageError(f"no normalisation {how!r}", f"known: {', '.join(NORMALISATIONS)}")
    return {name: NORMALISATIONS[how](score) for name, score in scores.items()}


def mean_rank(scores: Mapping[str, Tensor], criteria: str, group: ChannelGroup) -> Tensor:
    """Return the mean place of each channel [width] by several criteria, "taylor+l2"; 1 is best.

    A single name gives that criterion's own scores. Places are those of whole bundles of channels:
    equal scores of a bundle get places of their own, whose means two criteria would mix.

    Args:
        scores: criterion -> scores [width] of the group, bundled.
        criteria: one name, or several joined by "+".
        group: whose channels are ranked.
    """
    names = criteria.split("+")
    if len(names) == 1:
        return scores[criteria]
    places = [NORMALISATIONS["rank"](scores[name].double()) for name in names]
    return bundled(torch.stack(places).mean(0), group)


def layer_wise(scores: Mapping[str, Tensor], share: float) -> dict[str, tuple[int, ...]]:
    """Return group -> channels that stay when each group alone loses `share` of its channels."""
    return {
        name: keep_best(score, max(1, len(score) - round(share * len(score))))
        for name, score in scores.items()
    }


def globally(
    scores: Mapping[str, Tensor], share: float, how: str = "mean", *, least: float = 0.1
) -> dict[str, tuple[int, ...]]:
    """Return group -> channels that stay when all channels stand in one ranking.

    Args:
        scores: group -> scores [width].
        share: of all channels together that goes, 0 to 1.
        how: normalisation before ranking.
        least: share of each group (and one channel at least) that stays whatever its rank, so that
            no layer is closed; less than `share` may then go.

    Raises:
        UsageError: no such normalisation.
    """
    normalised = normalise(scores, how)
    protected = {
        name: set(keep_best(score, max(1, round(least * len(score)))))
        for name, score in normalised.items()
    }
    order = sorted(
        (float(value), name, k)
        for name, score in normalised.items()
        for k, value in enumerate(score)
        if k not in protected[name]
    )
    goal = round(share * sum(len(score) for score in scores.values()))
    gone = {(name, k) for _, name, k in order[:goal]}
    return {
        name: tuple(k for k in range(len(score)) if (name, k) not in gone)
        for name, score in scores.items()
    }
