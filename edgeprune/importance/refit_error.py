"""What the consumers of a group would miss of it once they are re-fitted to what is left.

`output_error` counts what a consumer's outputs lose as its weights are. Where reconstruction
follows (recovery/reconstruction.py), those weights change: what a channel said can be said by the
others, as far as they vary together. Removing channels greedily by the error that remains after
the weights of all others have been adjusted is Optimal Brain Surgeon (Hassibi and Stork 1992) on
the least-squares problem of each layer, with channels in place of weights as in ZipLM (arXiv
2302.04089):

    E(R) = sum over outputs o of  f_o * w_oR^T ((C^-1)_RR)^-1 w_oR

R are the inputs that removed channels feed, C the covariance of the layer's inputs (the constant is
re-fitted too), w_o the weights of output o and f_o = P / 2 * E[g_o^2] as in `output_error`: E is a
rise of the loss to second order, with the diagonal of the Fisher information in the outputs.
After each removal C^-1 and w are those of the inputs that are left:

    w  <- w - C^-1_:S ((C^-1)_SS)^-1 w_S        C^-1 <- C^-1 - C^-1_:S ((C^-1)_SS)^-1 C^-1_S:
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgeprune.importance.consumer_sums import ConsumerSums, consumer_sums
from edgeprune.importance.output_error import never_falling
from edgeprune.importance.scoring import Scores, Scoring
from edgeprune.recovery.reconstruction import RIDGE

ROUNDING, LEAST = 1e-12, 1e-30  # ridge at least: of the inputs' mean square, and at all
DENSE = 0.75  # share of the inputs held that must be left; with fewer the matrices are made smaller


def refit_error(scoring: Scoring) -> Scores:
    """Rise of E when a channel is removed greedily, after all that matter less.

    Raises:
        UsageError: no consumer of a group is a convolution without groups or a linear layer.
    """
    return {
        name: refit_order([Consumer(*part) for part in parts])
        for name, parts in consumer_sums(scoring).items()
    }


class Consumer:
    """Inverse covariance and weights of one consumer, of the inputs that are left.

    The covariance gets the ridge of reconstruction, so that inputs that never vary do no harm.
    """

    def __init__(self, sums: ConsumerSums, places: Tensor) -> None:
        covariance = sums.covariance
        mean = float(covariance.diagonal().mean())
        covariance.diagonal().add_(max(RIDGE * mean, ROUNDING * sums.power, LEAST))
        self.inverse: Tensor = torch.linalg.inv(covariance)
        self.weight = (
            sums.weight * sums.fisher.sqrt()[:, None]
        ).T.contiguous()  # [inputs, outputs]
        self.places = places
        self.gone = 0  # inputs held that are of removed channels

    def within(self, outputs: Sequence[int]) -> Consumer:
        """Return another one to remove channels from, of these outputs alone; none means all."""
        found = copy.copy(self)
        found.inverse = self.inverse.clone()
        found.weight = self.weight[:, list(outputs)] if outputs else self.weight.clone()
        return found

    def errors(self, left: Tensor) -> Tensor:
        """Return by how much E rises without each of the channels `left` [count]."""
        at = self.places[left]
        blocks = self.inverse[at[:, :, None], at[:, None, :]]
        weights = self.weight[at]
        found: Tensor = (weights * torch.linalg.solve(blocks, weights)).sum((1, 2))
        return found

    def remove(self, channel: int, left: Tensor) -> None:
        """Re-fit the weights of all other inputs; `left` are the channels that stay."""
        at = self.places[channel]
        columns = self.inverse[:, at]
        adjusted = torch.linalg.solve(columns[at], torch.cat((columns.T, self.weight[at]), 1))
        size = len(self.inverse)
        self.weight.addmm_(columns, adjusted[:, size:], alpha=-1)
        self.inverse.addmm_(columns, adjusted[:, :size], alpha=-1)
        self.gone += len(at)
        if self.gone > (1 - DENSE) * size:
            self._shrink(left)

    def _shrink(self, left: Tensor) -> None:
        """Hold only inputs of channels that are left, and those of no channel of the group."""
        stays = torch.ones(len(self.inverse), dtype=torch.bool)
        stays[self.places.flatten()] = False
        stays[self.places[left].flatten()] = True
        renamed = stays.cumsum(0) - 1
        self.places = torch.where(stays[self.places], renamed[self.places], 0)
        self.inverse = self.inverse[stays][:, stays].contiguous()
        self.weight, self.gone = self.weight[stays], 0


def refit_order(consumers: Sequence[Consumer], stay: int = 0) -> Tensor:
    """Return how much E rises when each channel is removed greedily [width], never falling.

    The `stay` channels that would be removed last are not told apart: theirs is infinite.
    """
    width = len(consumers[0].places)
    left, last = torch.ones(width, dtype=torch.bool), -math.inf
    scores = torch.full((width,), math.inf)
    for _ in range(width - stay):
        channels = left.nonzero().flatten()
        errors = torch.stack([one.errors(channels) for one in consumers]).sum(0)
        channel = int(channels[errors.argmin()])
        scores[channel] = last = never_falling(float(errors.min()), last)
        left[channel] = False
        for one in consumers:
            one.remove(channel, left.nonzero().flatten())
    return scores
