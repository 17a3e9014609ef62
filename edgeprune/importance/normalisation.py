"""Scores of groups made comparable, rankings by several criteria, and equal shares of all groups.

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
    "sum": lambda s: s / _safe(s.sum().abs()),
    "mean": lambda s: s / _safe(s.mean().abs()),
    "max": lambda s: s / _safe(s.max().abs()),
    "l2": lambda s: s / _safe(s.norm()),
    "minmax": lambda s: (s - s.min()) / _safe(s.max() - s.min()),
    "gaussian": lambda s: (s - s.mean()) / _safe(s.std(correction=0)),
    "lamp": lamp_of,
    "rank": lambda s: s.argsort().argsort().to(s.dtype) / max(1, len(s) - 1),
}


def _safe(size: Tensor) -> Tensor:
    return torch.where(size > TINY, size, 1.0)


def normalise(scores: Mapping[str, Tensor], how: str) -> dict[str, Tensor]:
    """Return every group's scores [width] divided by, or placed within, the size of its group.

    `sum`, `mean`, `max`, `l2`: over that of the group, without its sign; `minmax`: to [0, 1];
    `gaussian`: (s - mean) / std; `lamp`: over the sum of scores not smaller; `rank`: place among
    the channels of the group, from 0 to 1; `none`: as they are.

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
