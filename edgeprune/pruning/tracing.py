"""How models are traced: frozen parameters, what torch-pruning needs, the autograd graph."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from edgeprune.pruning import recurrent

Node = Any  # of the autograd graph


def unfreeze(model: nn.Module) -> list[nn.Parameter]:
    """Let all parameters of `model` take part in differentiation; return those that did not."""
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    return frozen


@contextlib.contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Build autograd graphs that hold every layer of `model`; what was frozen is so afterwards."""
    frozen = unfreeze(model)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def settle(model: nn.Module, slim: nn.Module) -> None:
    """Freeze in `slim`, cut from `model`, what is frozen there, and drop gradients, in place.

    torch-pruning 1.6.1 makes new parameters, which forget that they were frozen.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in slim.named_parameters(remove_duplicate=False):
        parameter.grad = None
        if name in own:
            parameter.requires_grad_(own[name].requires_grad)


def trains(model: nn.Module) -> bool:
    """Whether `model` has a parameter that is not frozen."""
    return any(parameter.requires_grad for parameter in model.parameters())


@contextlib.contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Let torch-pruning trace `model`: all of its layers, each recurrent one as a single node.

    Its own warnings are not shown: they name its arguments, which no user of edgeprune can give. It
    guesses, for instance, which axis of a bare parameter holds the channels; whether the guess is
    right, the proof of each group tells. Warnings of the model itself are shown.
    """
    with warnings.catch_warnings(), differentiable(model), recurrent.as_single_nodes(model):
        warnings.filterwarnings("ignore", module=r"torch_pruning\.")
        yield


def behind(nodes: Iterable[Node]) -> set[Node]:
    """Return `nodes` of the autograd graph and all that lead to them."""
    waiting = list(nodes)
    found = set(waiting)
    while waiting:
        for source, _ in waiting.pop().next_functions:
            if source is not None and source not in found:
                found.add(source)
                waiting.append(source)
    return found
