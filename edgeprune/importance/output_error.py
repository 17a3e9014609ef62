"""What the consumers of a group would miss of it: greedy by the error of their outputs.

ThiNet (arXiv 1707.06342) keeps the channels with which the next layer's output is closest to what
it was. Here the error is that of the outputs less their mean, which BatchNorm recalibration
restores, and each output counts as much as the loss depends on it:

    E(R) = sum over c, d in R of K[c,d]
    K[c,d] = P / 2 * sum over outputs o of  E[g_o^2] * Cov(u_oc, u_od)

R are the removed channels, u_oc what channel c adds to output o at a position, P the number of
positions, and g_o the derivative of a sample's loss by output o at a position: the diagonal of the
Fisher information in the outputs, so that E is a rise of the loss to second order. Since K knows
which channels say the same, they are removed one by one, each time the one that adds least to E.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeprune.importance.consumer_sums import ConsumerSums, consumer_sums
from edgeprune.importance.scoring import Scores, Scoring


def output_error(scoring: Scoring) -> Scores:
    """Rise of E when a channel is removed greedily, after all that matter less.

    Raises:
        UsageError: no consumer of a group is a convolution without groups or a linear layer.
    """
    return {
        name: removal_order(torch.stack([_coupling(*part) for part in parts]).sum(0))
        for name, parts in consumer_sums(scoring).items()
    }


def removal_order(coupling: Tensor) -> Tensor:
    """Return how much E rises when each channel is removed greedily [width], never falling.

    Args:
        coupling: K [width, width].
    """
    width, last = len(coupling), -math.inf
    left, scores = torch.ones(width, dtype=torch.bool), torch.zeros(width)
    cross = torch.zeros_like(coupling[0])
    for _ in range(width):
        rise = (coupling.diagonal() + 2 * cross).masked_fill(~left, math.inf)
        channel = int(rise.argmin())
        scores[channel] = last = never_falling(float(rise[channel]), last)
        left[channel] = False
        cross += coupling[channel]
    return scores


def never_falling(value: float, last: float) -> float:
    """Return `value` in float32, or what comes next after `last` if it is no larger."""
    value = float(torch.tensor(value))
    following = torch.nextafter(torch.tensor(last), torch.tensor(math.inf))
    return value if value > last else float(following)


def _coupling(sums: ConsumerSums, places: Tensor) -> Tensor:
    """Return K [width, width]: entries of the layer's weights summed into channels."""
    weight = sums.weight
    coupling = sums.covariance * (weight.T @ (weight * sums.fisher[:, None]))
    width, each = places.shape
    chosen = coupling[places.flatten()][:, places.flatten()]
    return chosen.reshape(width, each, width, each).sum((1, 3))
