"""Losses at the best scale of the outputs, where the metric does not depend on that scale.

Cut models are less sure of what they say: their outputs shrink, and cross-entropy rises with them
even if every answer stays right. Top-1 accuracy sees nothing of that. Of two plans the one whose
outputs shrank less would win by loss, whichever answers better. So the loss is taken at the factor
of the outputs that makes it least, as temperature scaling does (arXiv 1706.04599):

    L(model) = min over s > 0 of the mean of loss(s * output, target)

Metrics that change with the scale of outputs, as errors of regression do, keep the plain loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call

Outputs = Sequence[tuple[Tensor, Tensor]]
POWERS = (-4.0, 4.0)  # of two: factors looked at
PRECISION = 0.01  # of the power
GOLDEN = (math.sqrt(5) - 1) / 2


def outputs_of(
    model: nn.Module, batches: Sequence[tuple[tuple[Tensor, ...], Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Return (output, target) of each batch."""
    model.eval()
    with torch.inference_mode():
        return [(call(model, x), y) for x, y in batches]


def is_scale_free(data: Data, outputs: Outputs) -> bool:
    """Return whether the metric is the same at half and at twice of these outputs."""
    return all(
        data.metric(0.5 * output, y) == data.metric(output, y) == data.metric(2 * output, y)
        for output, y in outputs
    )


def least_loss(data: Data, outputs: Outputs) -> float:
    """Return the mean loss over all samples at the factor of the outputs that makes it least."""
    count = sum(len(y) for _, y in outputs)

    def loss(power: float) -> float:
        scaled = ((2.0**power * output, y) for output, y in outputs)
        return sum(float(data.loss(output, y)) * len(y) for output, y in scaled) / count

    with torch.inference_mode():
        return min(loss(0.0), _minimum(loss, *POWERS))


def _minimum(f: Callable[[float], float], low: float, high: float) -> float:
    """Return the least value of `f` by golden section; cross-entropy is convex in the factor."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = f(left), f(right)
    while high - low > PRECISION:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = f(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = f(right)
    return min(at_left, at_right)
