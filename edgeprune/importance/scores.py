"""Scores of channels by name; torch-pruning computes them, this module feeds it gradients."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from edgeprune.data import Data, call, first_batches
from edgeprune.errors import InternalCheckError
from edgeprune.pruning.groups import group_scores
from edgeprune.records import ChannelGroup

CRITERIA = ("taylor", "l1", "l2")


def score_channels(
    model: nn.Module, data: Data, groups: Sequence[ChannelGroup], criterion: str, *, samples: int
) -> dict[str, Tensor]:
    """Return group -> score of each channel [width], higher is kept.

    `l1`, `l2`: norms of the group's weights (arXiv 1608.08710); `taylor`: abs(sum w * dL/dw) with
    the gradient of the mean loss over `samples` calibration samples (arXiv 1906.10771).

    Raises:
        DataError: there are no calibration batches.
        InternalCheckError: a group has no score.
    """
    scored = copy.deepcopy(model).eval()
    if criterion == "taylor":
        batches = first_batches(data.calibration, samples, "calibration")
        total = sum(len(target) for _, target in batches)
        for inputs, target in batches:
            loss = data.loss(call(scored, inputs), target) * (len(target) / total)
            loss.backward()
    scores = group_scores(scored, data.example, criterion)
    missing = [group.name for group in groups if group.name not in scores]
    if missing:
        raise InternalCheckError(f"criterion {criterion} gives no score for {', '.join(missing)}")
    return {group.name: scores[group.name] for group in groups}


def keep_best(scores: Tensor, width: int) -> tuple[int, ...]:
    """Return the `width` channels of highest score, ascending; ties go to the lower index."""
    order = sorted(range(len(scores)), key=lambda k: (-float(scores[k]), k))
    return tuple(sorted(order[:width]))
