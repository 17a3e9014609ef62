"""Criteria from second derivatives of the loss on calibration data."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgeprune.importance.gradients import mean_gradients
from edgeprune.importance.scoring import BATCH, Scores, Scoring
from edgeprune.pruning.recurrent import RECURRENT
from edgeprune.recovery.layout import channels_last

SLICE = 16  # samples in one double backward: it holds about twice the graph of a training step


def hessian(scoring: Scoring) -> Scores:
    """trace(H_k) * norm(w_k)^2 / count(w_k), H_k the Hessian block of channel k's weights.

    The trace is Hutchinson's: the mean over probes v with entries -1 and +1 of the sum of v * H v
    over the channel (arXiv 2101.08940 prunes by it). Each batch gets fresh probes from the seed:
    one, or as many as make at least `scoring.probes` in all. Traces may be negative.
    """
    probes = max(1, math.ceil(scoring.probes / math.ceil(scoring.samples / BATCH)))
    generator = scoring.generator()
    total = {name: torch.zeros_like(p) for name, p in scoring.parameters().items()}
    count = 0
    for inputs, target in scoring.batches(labels=True):
        for _ in range(probes):
            probe = {name: _signs(p, generator) for name, p in total.items()}
            for name, value in _products(scoring, inputs, target, probe):
                total[name] += probe[name] * value
        count += len(target)
    weights = scoring.weights()
    trace = scoring.sums({name: value / (count * probes) for name, value in total.items()})
    squares = scoring.sums({name: weights[name].square() for name in total})
    entries = scoring.sums({name: torch.ones_like(weights[name]) for name in total})
    return {name: trace[name] * squares[name] / entries[name] for name in trace}


def grasp(scoring: Scoring) -> Scores:
    """Sum of w * (H g): half of what norm(gradient)^2 loses with the channel, to first order.

    Gradient signal preservation (arXiv 2002.07376) scores S = -(w * H g) and removes the highest,
    whose loss harms the gradient least. Here the higher score is kept, so the sign is turned.
    """
    mean = mean_gradients(scoring)
    total = {name: torch.zeros_like(g) for name, g in mean.items()}
    count = 0
    for inputs, target in scoring.batches(labels=True):
        for name, value in _products(scoring, inputs, target, mean):
            total[name] += value
        count += len(target)
    weights = scoring.weights()
    return scoring.sums({name: weights[name] * value / count for name, value in total.items()})


def _products(
    scoring: Scoring, inputs: tuple[Tensor, ...], target: Tensor, vector: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter, H v) of the loss summed over the samples, slice by slice."""
    parameters = scoring.parameters()
    listed = list(parameters.values())
    for parameter in listed:
        parameter.data = channels_last(parameter.data)  # its kernels are about a sixth faster
    for start in range(0, len(target), SLICE):
        part = tuple(channels_last(x[start : start + SLICE]) for x in inputs)
        labels = target[start : start + SLICE]
        with _twice_differentiable(scoring):
            loss = scoring.loss(part, labels) * len(labels)
            first = torch.autograd.grad(loss, listed, create_graph=True, allow_unused=True)
            pairs = [
                (g, vector[n]) for n, g in zip(parameters, first, strict=True) if g is not None
            ]
            known = [(g, v) for g, v in pairs if g.requires_grad]
            if not known:
                continue  # a loss linear in all weights has no curvature
            second = torch.autograd.grad(
                [g for g, _ in known], listed, [v for _, v in known], allow_unused=True
            )
        del first, known
        for name, value in zip(parameters, second, strict=True):
            if value is not None:
                yield name, value


@contextlib.contextmanager
def _twice_differentiable(scoring: Scoring) -> Iterator[None]:
    """Keep to kernels with a second derivative: fused attention and oneDNN's RNNs have none."""
    with contextlib.ExitStack() as kept:
        kept.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(layer, RECURRENT) for layer in scoring.layers.values()):
            kept.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "TF32 acceleration")  # torch: of Intel GPUs only
            kept.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1
