"""Recalibration of BatchNorm statistics, and the batches that have statistics."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from edgeprune.data import Data, batches
from edgeprune.errors import DataError

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Inputs = tuple[Tensor, ...]


def has_batchnorm(model: nn.Module) -> bool:
    """Return whether the model has BatchNorm layers with running statistics."""
    return any(isinstance(m, NORMS) and m.track_running_stats for m in model.modules())


def recalibrate(model: nn.Module, samples: Sequence[Inputs]) -> None:
    """Replace the running statistics by averages over `samples`; nothing else changes.

    A batch counts by its number of samples.

    Only the BatchNorm layers are put into training mode, so dropout stays off. The model is left in
    eval mode. (Statistics after weight changes: arXiv 2007.02491, section 3.)

    Args:
        model: recalibrated in place.
        samples: batches of inputs; those that are not `Measurable` are left out.

    Raises:
        DataError: there are only such.
    """
    norms = [m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats]
    if not norms or not samples:
        return
    model.eval()
    measurable = Measurable([model])
    chosen = [inputs for inputs in samples if measurable(inputs)]
    if not chosen:
        raise too_small("calibration")
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    with torch.no_grad():
        for inputs in chosen:
            seen += len(inputs[0])
            for norm in norms:
                norm.momentum = len(inputs[0]) / seen  # of a batch in the average so far
            model(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


class Measurable:
    """Says of batches whether every BatchNorm layer of some models finds a variance in them.

    A batch of one sample has none where a layer sees a single value a channel of a sample: behind
    linear layers, or over maps of 1 x 1. torch refuses to train on it.

    Args:
        models: looked at, as copies, when the first batch of one sample of a shape comes.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = models
        self._known: dict[tuple[torch.Size, ...], bool] = {}

    def __call__(self, inputs: Inputs) -> bool:
        """Return whether the batch `inputs`, each [samples, ...], can be trained on."""
        if len(inputs[0]) > 1:
            return True
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._known:
            self._known[shapes] = not any(_single_values(model, inputs) for model in self._models)
        return self._known[shapes]


def require_measurable(model: nn.Module, data: Data, *, training: bool) -> None:
    """Make sure that calibration, and training data if it will be used, has a batch with variances.

    Told is what can be without drawing from a loader, whose order may depend on how often it was
    asked: of lists, and of a DataLoader whose batches are of one sample. Of others it is told late.

    Raises:
        DataError: every batch of a part holds one sample, in which BatchNorm finds no variance.
    """
    if not has_batchnorm(model):
        return
    measurable = Measurable([model])
    parts = {"calibration": data.calibration}
    if training and data.train is not None:
        parts["train"] = data.train
    for name, part in parts.items():
        if isinstance(part, list | tuple):
            found = any(measurable(inputs) for inputs, _ in batches(part, name))
        elif isinstance(part, DataLoader) and part.collate_fn is default_collate:
            found = part.batch_size != 1 or measurable(data.example)
        else:
            continue
        if not found:
            raise too_small(name)


class _SingleValue(Exception):
    """A BatchNorm layer was given one value a channel."""


def _single_values(model: nn.Module, inputs: Inputs) -> bool:
    """Return whether a BatchNorm layer sees one value a channel of the batch `inputs`."""

    def look(norm: nn.Module, entered: tuple[Any, ...]) -> None:
        if entered and entered[0].numel() == entered[0].shape[1]:
            raise _SingleValue

    looked_at = copy.deepcopy(model).eval()
    for module in looked_at.modules():
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(look)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            looked_at(*inputs)
    except _SingleValue:
        return True
    return False


def too_small(part: str) -> DataError:
    """Return the error for a part of the data whose batches all hold one sample."""
    return DataError(
        f"data: the batches of {part} hold one sample each, in which BatchNorm finds one value a "
        "channel and no variance",
        "give batches of two samples or more",
    )
