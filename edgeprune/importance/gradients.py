"""Criteria from first derivatives of the loss on calibration data."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from edgeprune.importance.scoring import Pair, Scores, Scoring
from edgeprune.importance.weights import rest
from edgeprune.pruning.recurrent import RECURRENT

CHUNK_BYTES = 64 * 2**20  # of per-sample gradients held at once


def gradient(scoring: Scoring) -> Scores:
    """Sum over batches b of abs(dL_b/dw), summed over the weights of channel k."""
    total = {name: torch.zeros_like(p) for name, p in scoring.parameters().items()}
    for _, gradients in batch_gradients(scoring):
        for name, value in gradients.items():
            total[name] += value.abs()
    return scoring.sums(total)


def taylor(scoring: Scoring) -> Scores:
    """Sum over layers of abs(sum of w * dL/dw), L the mean loss (arXiv 1906.10771)."""
    mean = mean_gradients(scoring)
    for name, parameter in scoring.parameters().items():
        parameter.grad = mean[name]
    product = {name: mean[name] * w for name, w in scoring.weights().items() if name in mean}
    return rest(scoring, "taylor", product, lambda rows: rows.sum(1).abs())


def snip(scoring: Scoring) -> Scores:
    """Sum of abs(w * dL/dw), L the mean loss over the data (arXiv 1810.02340, over channels)."""
    mean = mean_gradients(scoring)
    weights = scoring.weights()
    return scoring.sums({name: (g * weights[name]).abs() for name, g in mean.items()})


def fisher(scoring: Scoring) -> Scores:
    """Mean over samples n of (dL_n/dw)^2, summed over the weights of channel k.

    With cross-entropy, L_n = -log p(y_n given x_n): this is the diagonal of the empirical Fisher
    information (arXiv 1801.05787 prunes by it). The gradients are those of single samples: squaring
    the gradient of a batch would give another quantity, about a batch size times smaller.
    """
    total = {name: torch.zeros_like(p) for name, p in scoring.parameters().items()}
    count = 0
    for inputs, target in scoring.batches(labels=True):
        for name, value in squared_gradients(scoring, (inputs, target)):
            total[name] += value
        count += len(target)
    return scoring.sums({name: value / count for name, value in total.items()})


def batch_gradients(
    scoring: Scoring, limit: int | None = None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield (samples, gradients of the mean loss by parameter) of each batch.

    Raises:
        DataError: no batches or no labels.
    """
    parameters = scoring.parameters()
    for inputs, target in scoring.batches(labels=True, limit=limit):
        loss = scoring.loss(inputs, target)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        pairs = zip(parameters.items(), found, strict=True)
        yield (
            len(target),
            {n: torch.zeros_like(p) if g is None else g.detach() for (n, p), g in pairs},
        )


def mean_gradients(scoring: Scoring) -> dict[str, Tensor]:
    """Return the gradient of the mean loss over all samples, by parameter."""
    total = {name: torch.zeros_like(p) for name, p in scoring.parameters().items()}
    count = 0
    for samples, gradients in batch_gradients(scoring):
        for name, value in gradients.items():
            total[name].add_(value, alpha=samples)
        count += samples
    return {name: value / count for name, value in total.items()}


def squared_gradients(scoring: Scoring, batch: Pair) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter, sum over the samples of `batch` of their squared gradient).

    Vectorised over as many samples as fit into 64 MB of gradients; recurrent layers, for which
    torch has no batching rule, are differentiated sample by sample.
    """
    parameters = scoring.parameters()
    inputs, target = batch
    if any(isinstance(layer, RECURRENT) for layer in scoring.layers.values()):
        for index in range(len(target)):
            one = tuple(x[index : index + 1] for x in inputs)
            loss = scoring.loss(one, target[index : index + 1])
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, value in zip(parameters, found, strict=True):
                if value is not None:
                    yield name, value.square()
        return

    def loss_of(weights: dict[str, Tensor], sample: tuple[Tensor, ...], label: Tensor) -> Tensor:
        single = tuple(x[None] for x in sample)
        output: Tensor = functional_call(scoring.model, weights, single)
        return scoring.data.loss(output, label[None])

    detached = {name: p.detach() for name, p in parameters.items()}
    size = sum(p.numel() * p.element_size() for p in detached.values())
    chunk = max(1, min(len(target), CHUNK_BYTES // max(size, 1)))
    per_sample = vmap(grad(loss_of), in_dims=(None, 0, 0), randomness="same")
    for start in range(0, len(target), chunk):
        part = tuple(x[start : start + chunk] for x in inputs)
        gradients: dict[str, Tensor] = per_sample(detached, part, target[start : start + chunk])
        for name in list(gradients):
            yield name, gradients.pop(name).square_().sum(0)
