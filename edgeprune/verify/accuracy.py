"""Accuracy of the exported files, computed by the runtime over the whole evaluation data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.data import Data
from edgeprune.devices.protocol import Device
from edgeprune.errors import DataError
from edgeprune.records import Artifact
from edgeprune.verify.inference import infer

Answers = NDArray[np.int64]
FEWEST = 10  # samples or batches that a bootstrap is drawn from: of fewer, intervals are too narrow
ROUNDING = 1e-5  # of a mean in float32
DRAWN_AT_ONCE = 1 << 22  # numbers, so that large data sets do not take gigabytes


@dataclass(frozen=True)
class Accuracy:
    """The metric over all samples, and batch by batch with the batch's size.

    `answers` and `labels` hold the class of largest output and the true one of every sample [N];
    None where outputs are no scores of classes or targets no labels. `labels` is None too where
    some are no classes of the model: what marks samples to be left out (255, say) is the metric's.
    `shares` is the share of right answers of every sample [N], where the metric is their mean.
    """

    value: float
    batches: tuple[tuple[float, int], ...]
    answers: Answers | None = None
    labels: Answers | None = None
    shares: NDArray[np.float64] | None = None

    @property
    def samples(self) -> int:
        """Number of samples evaluated."""
        return sum(count for _, count in self.batches)


def evaluate(
    device: Device,
    path: Path,
    artifact: Artifact,
    data: Data,
    progress: Callable[[int], None] = lambda samples: None,
) -> Accuracy:
    """Return the metric of the ONNX file at `path` on the test data, or validation where none is.

    Raises:
        DataError: the data is empty on this pass.
    """
    part, name = data.evaluation
    rows: list[tuple[float, int]] = []
    answers, labels, known = list[Tensor](), list[Tensor](), True
    shares, by_sample = list[Tensor](), True
    for output, (inputs, target) in infer(device, path, artifact, part, name, progress):
        rows.append((data.metric(output, target), len(inputs[0])))
        if are_classes(output, target):
            known = known and int(target.max()) < output.shape[1]
            answers.append(output.argmax(1).flatten())
            labels.append(target.flatten())
            right = (output.argmax(1) == target).reshape(len(target), -1).double().mean(1)
            by_sample = by_sample and abs(float(right.mean()) - rows[-1][0]) <= ROUNDING
            shares.append(right)
    if not rows:
        raise DataError("data: the evaluation data is empty or can be iterated only once")
    value = sum(v * n for v, n in rows) / sum(n for _, n in rows)
    if len(answers) < len(rows):
        return Accuracy(value, tuple(rows))
    truth = torch.cat(labels).numpy() if known else None
    found = torch.cat(shares).numpy() if by_sample else None
    return Accuracy(value, tuple(rows), torch.cat(answers).numpy(), truth, found)


def are_classes(output: Tensor, target: Tensor) -> bool:
    """Whether `output` [N, classes, ...] scores classes and `target` [N, ...] are their labels."""
    return (
        output.ndim >= 2
        and output.shape[1] > 1
        and not target.is_floating_point()
        and target.shape == (output.shape[0], *output.shape[2:])
    )


def drop_interval(
    dense: Accuracy,
    slim: Accuracy,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float] | None:
    """Return the bootstrap interval of dense - slim over the same samples, or None if not known.

    Samples are drawn where the metric is a mean over them, and batches elsewhere; 10 at least.

    Raises:
        ValueError: the two were evaluated on different batches.
    """
    if [n for _, n in dense.batches] != [n for _, n in slim.batches]:
        raise ValueError("the two models were evaluated on different batches")
    if dense.shares is not None and slim.shares is not None:
        drops = dense.shares - slim.shares
        sizes = np.ones(len(drops))
    else:
        drops = np.array(
            [a - b for (a, _), (b, _) in zip(dense.batches, slim.batches, strict=True)]
        )
        sizes = np.array([n for _, n in dense.batches], dtype=np.float64)
    if len(drops) < FEWEST:
        return None
    return _weighted_interval(drops, sizes, confidence, seed, resamples)


def _weighted_interval(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    confidence: float,
    seed: int,
    resamples: int,
) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, DRAWN_AT_ONCE // len(weights))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        chosen = random.integers(0, len(weights), (count, len(weights)))
        drawn = (values[chosen] * weights[chosen]).sum(1) / weights[chosen].sum(1)
        means[start : start + count] = drawn
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
