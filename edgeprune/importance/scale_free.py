"""Losses at the best scale of the outputs, where the metric does not depend on that scale.

Cut models are less sure of what they say: their outputs shrink, and cross-entropy rises with them
even if every answer stays right. Top-1 accuracy sees nothing of that. Of two plans the one whose
outputs shrank less would win by loss, whichever answers better. So the loss is taken at the factor
of the outputs that makes it least, as temperature scaling does (arXiv 1706.04599):

    L(model) = min over s > 0 of the mean of loss(s * output, target)

That a factor is a temperature needs a softmax within the loss. Losses of probabilities or of their
logarithms have none, and metrics as errors of regression change with the scale: there the plain
loss stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call, require_finite
from edgeprune.errors import UserFunctionError

Batches = Sequence[tuple[tuple[Tensor, ...], Tensor]]
POWERS = tuple(k / 4 for k in range(-8, 17))  # of two: factors looked at, from 1/4 to 16
SHIFT, SAME = 1.0, 1e-4  # a softmax does not see this; relative and absolute


def is_scale_free(model: nn.Module, data: Data, batches: Batches) -> bool:
    """Return whether factors of the outputs are temperatures that the metric does not see.

    So it is if the metric is the same at half and at twice of the outputs of `model`, and the loss
    where all of them are higher by one: that is what a softmax within it makes of it.
    """
    model.eval()
    with torch.inference_mode():
        return all(_is_scale_free(data, call(model, x), y) for x, y in batches)


def _is_scale_free(data: Data, output: Tensor, target: Tensor) -> bool:
    try:
        plain, shifted = (float(data.loss(o, target)) for o in (output, output + SHIFT))
        half, whole, twice = (data.metric(s * output, target) for s in (0.5, 1.0, 2.0))
    except UserFunctionError:  # outputs that are no longer probabilities are refused by some
        return False
    return half == whole == twice and math.isclose(plain, shifted, rel_tol=SAME, abs_tol=SAME)


def least_loss(model: nn.Module, data: Data, batches: Batches, cut: str = "") -> float:
    """Return the mean loss over all samples at the factor of the outputs that makes it least.

    It is taken at factors that lie a quarter of a power of two apart, and between them from the
    parabola through the least of them and its neighbours. A factor at which it is not finite is
    not the best one.

    Raises:
        UserFunctionError: no factor gives a finite one; `cut` is what was cut, "" of the dense
            model.
    """
    model.eval()
    sums = torch.zeros(len(POWERS), dtype=torch.float64)
    with torch.inference_mode():
        for x, y in batches:
            output = call(model, x)
            losses = [float(data.loss(2.0**power * output, y)) for power in POWERS]
            sums += len(y) * torch.tensor(losses, dtype=torch.float64)
    count = sum(len(y) for _, y in batches)
    found = _least([x if math.isfinite(x) else math.inf for x in (sums / count).tolist()])
    require_finite(found, count, cut=cut)
    return found


def _least(values: Sequence[float]) -> float:
    """Return the least of evenly spaced values, or the vertex of the parabola through it."""
    at = min(range(len(values)), key=lambda k: values[k])
    if at in (0, len(values) - 1):
        return values[at]
    left, middle, right = values[at - 1 : at + 2]
    bend = left - 2 * middle + right
    return middle - (right - left) ** 2 / (8 * bend) if 0 < bend < math.inf else middle
