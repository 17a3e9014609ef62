"""The loss of cut models on the same calibration samples, after BatchNorm recalibration."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call, first_batches, has_labels, require_finite, unlabelled
from edgeprune.errors import DataError
from edgeprune.importance.prefix import Prefixes
from edgeprune.importance.scale_free import Batches, is_scale_free, least_loss
from edgeprune.pruning.groups import cut
from edgeprune.records import ResidualBlock
from edgeprune.recovery.batchnorm import has_batchnorm, recalibrate
from edgeprune.recovery.layout import channels_last, fast_layout

RECALIBRATION_SAMPLES = 200
TOLD = 4  # groups that a message names


class Performance(NamedTuple):
    """Mean loss and mean metric over all samples; batches without labels have no loss.

    `even` is the loss over every second batch that has one, from the first on, `odd` that over the
    others: NaN where there are none.
    """

    loss: float
    metric: float
    even: float
    odd: float


class LossMeter:
    """Losses of cut models on the same calibration samples, after BatchNorm recalibration.

    Args:
        model: the dense model.
        data: gives calibration batches and the loss.
        samples: calibration samples the loss is measured on.

    Raises:
        DataError: there are no calibration batches, or no labels.
        UserFunctionError: the dense model's loss is not finite.
    """

    def __init__(self, model: nn.Module, data: Data, samples: int) -> None:
        self.data, self.model = data, fast_layout(copy.deepcopy(model))
        self._measured = [
            (tuple(map(channels_last, x)), y)
            for x, y in first_batches(data.calibration, samples, "calibration")
        ]
        require_labels(self._measured)
        self._statistics = [
            tuple(map(channels_last, x))
            for x, _ in first_batches(data.calibration, RECALIBRATION_SAMPLES, "calibration")
        ]

    @cached_property
    def dense(self) -> Performance:
        """Loss and metric of the dense model, taken the same way."""
        return self.performance(cut(self.model, self.data.example, {}), "")

    def performance(self, candidate: nn.Module, what: str) -> Performance:
        """Return loss and metric of `candidate`, whose BatchNorm statistics are taken anew.

        Raises:
            UserFunctionError: the loss is not finite; `what` was cut, "" of the dense model.
        """
        return performance(self._recalibrated(candidate), self.data, self._measured, what)

    @cached_property
    def _prefixes(self) -> Prefixes:
        return Prefixes(self._dense, self._statistics, [x for x, _ in self._measured])

    def shorten(self, candidate: nn.Module) -> nn.Module:
        """Return `candidate`, a cut copy of `model`, without what it shares with the dense model.

        What runs before the first layer that was cut is taken from memory, where that is the same:
        its losses are the same, in less time. The model is for this meter's batches alone.
        """
        self._prefixes.shorten(candidate)
        return candidate

    def increase(
        self, kept: Mapping[str, Sequence[int]], removed: Sequence[ResidualBlock] = ()
    ) -> float:
        """Return by how much the loss rises over the dense model's when all of this is cut."""
        slim = cut(self.model, self.data.example, kept, removed)
        return self.performance(slim, told(kept, removed)).loss - self.dense.loss

    @cached_property
    def scale_free(self) -> bool:
        """Whether the metric leaves the scale of the outputs out of account."""
        return is_scale_free(self._dense, self.data, self._measured)

    def least_increase(
        self, kept: Mapping[str, Sequence[int]], removed: Sequence[ResidualBlock] = ()
    ) -> float:
        """Return `increase`, at the best scale of the outputs where the metric leaves that out."""
        if not self.scale_free:
            return self.increase(kept, removed)
        slim = self._recalibrated(cut(self.model, self.data.example, kept, removed))
        found = least_loss(slim, self.data, self._measured, told(kept, removed))
        return found - self._least_dense

    @cached_property
    def _least_dense(self) -> float:
        return least_loss(self._dense, self.data, self._measured)

    @cached_property
    def _dense(self) -> nn.Module:
        return self._recalibrated(cut(self.model, self.data.example, {}))

    def _recalibrated(self, candidate: nn.Module) -> nn.Module:
        if has_batchnorm(candidate):
            recalibrate(candidate, self._statistics)
        return candidate


def told(kept: Mapping[str, Sequence[int]], removed: Sequence[ResidualBlock] = ()) -> str:
    """Return what a plan cuts, for messages: the first few groups and branches."""
    whats = [f"without the branch that ends in {block.last}" for block in removed]
    gone = {name for block in removed for name in block.groups}
    whats += [f"group {name} at width {len(k)}" for name, k in kept.items() if name not in gone]
    more = f" and {len(whats) - TOLD} more" if len(whats) > TOLD else ""
    return f"{', '.join(whats[:TOLD])}{more}"


def require_labels(batches: Sequence[tuple[tuple[Tensor, ...], Tensor]]) -> None:
    """Make sure that losses can be measured.

    Raises:
        DataError: a batch has no labels.
    """
    for index, (inputs, target) in enumerate(batches):
        if not has_labels(inputs, target):
            raise DataError(
                f"sensitivity needs labels, and batch {index} of calibration has none (its target "
                f"has shape {tuple(target.shape)})",
                'give labels, or take [prune] loss = "importance" with a criterion that needs none',
            )


def performance(
    model: nn.Module, data: Data, batches: Batches, cut: str = "", part: str = "calibration"
) -> Performance:
    """Return loss and metric of `model`.

    Args:
        model: set to evaluation.
        data: gives loss and metric.
        batches: what they are taken on.
        cut: what was cut, for the message; "" of the dense model.
        part: what the batches are of, likewise.

    Raises:
        UserFunctionError: the loss is not finite.
    """
    model.eval()
    losses, metric, count = list[tuple[float, int]](), 0.0, 0
    with torch.inference_mode():
        for x, y in batches:
            output, samples = call(model, x), len(x[0])
            found = float(data.loss(output, y))
            metric += data.metric(output, y) * samples
            count += samples
            if not unlabelled(found, x, y):
                losses.append((found, samples))
    loss = _mean(losses)
    require_finite(loss, count, part, cut)
    return Performance(loss, metric / count, _mean(losses[::2]), _mean(losses[1::2]))


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    count = sum(samples for _, samples in losses)
    return sum(loss * samples for loss, samples in losses) / count if count else math.nan


def mean_loss(
    model: nn.Module, data: Data, batches: Batches, cut: str = "", part: str = "calibration"
) -> float:
    """Return the mean loss over all samples of `batches`; arguments as of `performance`."""
    return performance(model, data, batches, cut, part).loss
