"""Scores of the channels of a model by any criterion."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import InternalCheckError, UnscoredError, UsageError
from edgeprune.importance.registry import criterion as criterion_of
from edgeprune.importance.scoring import PROBES, Scoring
from edgeprune.pruning.groups import members
from edgeprune.pruning.tracing import unfreeze
from edgeprune.records import ChannelGroup
from edgeprune.sections import FusedSection


def score_channels(
    model: nn.Module,
    data: Data,
    groups: Sequence[ChannelGroup],
    criterion: str,
    *,
    samples: int,
    seed: int = 0,
    fused: FusedSection | None = None,
    probes: int = PROBES,
) -> dict[str, Tensor]:
    """Return group -> score of each channel [width], float32, higher is kept.

    Args:
        model: the dense model; it is left alone. Frozen layers are scored as any other.
        data: calibration batches and the loss.
        groups: the groups to score.
        criterion: a name of `importance.registry.CRITERIA`.
        samples: calibration samples to look at, at most.
        seed: of whatever a criterion draws.
        fused: settings of criterion `fused`.
        probes: vectors that the traces of `hessian` are estimated with, at least.

    Raises:
        UsageError: no such criterion.
        UnscoredError: it cannot score a group, or its scores are not finite.
        DataError: there are no calibration batches, or no labels where they are needed.
        InternalCheckError: there is not one score a channel.
    """
    method = criterion_of(criterion)
    scored = copy.deepcopy(model).eval()
    unfreeze(scored)
    traced = members(scored, data.example)
    wanted = {group.name: traced[group.name] for group in groups if group.name in traced}
    if missing := [group.name for group in groups if group.name not in traced]:
        raise UsageError(f"the model has no group {', '.join(missing)} to score")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = method.score(
            Scoring(
                scored,
                data,
                wanted,
                samples,
                seed,
                fused or FusedSection(),
                probes=probes,
                criterion=criterion,
            )
        )
    scores = {group.name: found[group.name].detach().float() for group in groups}
    for group in groups:
        score = scores[group.name]
        if score.shape != (group.width,):
            raise InternalCheckError(
                f"importance {criterion} of group {group.name} is not one score a channel"
            )
    if wild := [name for name, score in scores.items() if not bool(score.isfinite().all())]:
        raise UnscoredError(
            criterion,
            dict.fromkeys(wild, "its scores overflow"),
            "scale the loss to the order of 1, look at the size of the weights, or take "
            "another criterion: edgeprune methods",
        )
    return scores


def complete(scores: Mapping[str, Mapping[str, Tensor]], groups: Iterable[str]) -> tuple[str, ...]:
    """Return the criteria that score all `groups`, in their order.

    Args:
        scores: criterion -> group -> scores.
        groups: names.
    """
    names = set(groups)
    return tuple(criterion for criterion, found in scores.items() if names <= set(found))


def spanning(scores: Mapping[str, Mapping[str, Tensor]], groups: Iterable[str]) -> str:
    """Return the first criterion that scores all `groups`, as one ranking of them needs.

    Raises:
        UsageError: there is none.
    """
    for criterion in complete(scores, groups):
        return criterion
    raise UsageError(
        'none of the criteria that "auto" stands for can score all groups, and here one has to',
        "name a criterion in [prune] importance that can: edgeprune methods",
    )


def bundled(scores: Tensor, group: ChannelGroup) -> Tensor:
    """Return scores [width] that rank whole bundles of channels: the mean over each bundle.

    Bundles of equal mean are told apart, so that the best channels always form whole bundles.
    """
    if group.divisor == 1:
        return scores
    bundles = group.bundles()
    means = torch.stack([scores[list(bundle)].mean() for bundle in bundles]).double()
    order = sorted(range(len(bundles)), key=lambda k: (float(means[k]), -k))
    found, last = torch.empty_like(scores, dtype=torch.float64), -float("inf")
    for k in order:
        last = max(float(means[k]), math.nextafter(last, math.inf))
        found[list(bundles[k])] = last
    return found


def keep_best(scores: Tensor, width: int) -> tuple[int, ...]:
    """Return the `width` channels of highest score, ascending; ties go to the lower index."""
    order = sorted(range(len(scores)), key=lambda k: (-float(scores[k]), k))
    return tuple(sorted(order[:width]))
