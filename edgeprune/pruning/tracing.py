"""The circumstances in which torch-pruning traces a model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from edgeprune.pruning import recurrent


@contextlib.contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Let torch-pruning trace `model`: with gradients, each recurrent layer as one node.

    Its own warnings are not shown: they name its arguments, which no user of edgeprune can give. It
    guesses, for instance, which axis of a bare parameter holds the channels; whether the guess is
    right, the proof of each group tells. Warnings of the model itself are shown.
    """
    with warnings.catch_warnings(), torch.enable_grad(), recurrent.as_single_nodes(model):
        warnings.filterwarnings("ignore", module=r"torch_pruning\.")
        yield
