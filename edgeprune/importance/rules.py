"""Widths that follow from scores alone: no cost, no solver.

Each rule returns group -> width; which channels stay are the best of the group.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgeprune.errors import UsageError

RETAINED = ((2.5, 0.70), (1.5, 0.80), (0.0, 0.95))  # cv above which this share is kept
CLAMP = (0.1, 0.8)  # least and largest share that the layer-adaptive rule takes from a group


def variation(scores: Tensor) -> float:
    """Return the coefficient of variation of scores [width], std / mean; 0 where the mean is 0."""
    mean = float(scores.double().mean())
    return float(scores.double().std(correction=0)) / mean if mean > 0 else 0.0


def retention(scores: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the smallest widths that hold a share of each group's importance.

    With cv = std / mean of a group's scores: 70 % if cv > 2.5, 80 % if cv > 1.5, else 95 %. Where a
    few channels hold most of the importance, less of the rest is needed.

    Raises:
        UsageError: a score is negative: shares of a sum have no meaning then.
    """
    found: dict[str, int] = {}
    for name, score in scores.items():
        ordered = score.double().sort(descending=True).values
        if float(ordered[-1]) < 0:
            raise UsageError(
                f"allocation retention: group {name} has negative scores",
                "take a criterion whose scores are not signed (not grasp, not hessian)",
            )
        cv = variation(score)
        share = next((kept for above, kept in RETAINED if cv > above), RETAINED[-1][1])
        held = ordered.cumsum(0)
        enough = (held >= share * held[-1] * (1 - 1e-12)).nonzero()
        found[name] = int(enough[0]) + 1
    return found


def adaptive_alpha(
    widths: Mapping[str, int], weights: Mapping[str, Tensor], alpha: float
) -> dict[str, int]:
    """Return widths from which each group loses alpha * (1 + cv of abs(weights)), 90 % at most.

    Args:
        widths: group -> width.
        weights: group -> the weights that produce it, of any shape.
        alpha: share that a group of equal weights would lose.
    """
    return {
        name: _left(width, min(0.9, alpha * (1 + variation(weights[name].abs().flatten()))))
        for name, width in widths.items()
    }


def layer_adaptive(
    widths: Mapping[str, int], sensitivity: Mapping[str, float], target: float
) -> dict[str, int]:
    """Return widths from which each group loses target * (1 - sensitivity), from 10 % to 80 %.

    Args:
        widths: group -> width.
        sensitivity: group -> how much it suffers, 0 to 1 (its loss increase over the largest).
        target: share that an insensitive group loses.
    """
    low, high = CLAMP
    return {
        name: _left(width, min(high, max(low, target * (1 - sensitivity[name]))))
        for name, width in widths.items()
    }


def _left(width: int, share: float) -> int:
    return max(1, width - round(share * width))
