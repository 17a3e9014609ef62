"""Recalibration of BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def has_batchnorm(model: nn.Module) -> bool:
    """Return whether the model has BatchNorm layers with running statistics."""
    return any(isinstance(m, NORMS) and m.track_running_stats for m in model.modules())


def recalibrate(model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> None:
    """Replace the running statistics by plain averages over `batches`; nothing else changes.

    Only the BatchNorm layers are put into training mode, so dropout stays off. The model is left in
    eval mode. (Statistics after weight changes: arXiv 2007.02491, section 3.)
    """
    norms = [m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats]
    if not norms or not batches:
        return
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    with torch.no_grad():
        for inputs in batches:
            model(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
