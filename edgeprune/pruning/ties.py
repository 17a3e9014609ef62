"""Parameters that several layers hold in common, such as the table of an embedding and its decoder.

torch-pruning gives each layer that it cuts parameters of its own: what was one becomes two that are
equal, counted twice and trained apart.
"""

from __future__ import annotations

import torch
from torch import nn


def ties(model: nn.Module) -> list[tuple[str, ...]]:
    """Return the names of every parameter that several layers of `model` hold."""
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            names.setdefault(id(parameter), []).append(f"{path}.{key}" if path else key)
    return [tuple(found) for found in names.values() if len(found) > 1]


def retie(model: nn.Module, slim: nn.Module) -> None:
    """Make one again, in place, what is one in `model` and still equal in `slim`, cut from it."""
    for names in ties(model):
        own = dict(slim.named_parameters(remove_duplicate=False))
        firsts: list[nn.Parameter] = []
        for name in (name for name in names if name in own):
            mine = own[name]
            same = [p for p in firsts if p.shape == mine.shape and torch.equal(p, mine)]
            if same:
                _set(slim, name, same[0])
            else:
                firsts.append(mine)


def separate(model: nn.Module) -> None:
    """Give each layer parameters of its own, in place."""
    own = dict(model.named_parameters(remove_duplicate=False))
    for names in ties(model):
        for name in names[1:]:
            copied = own[name].detach().clone()
            _set(model, name, nn.Parameter(copied, requires_grad=own[name].requires_grad))


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, key = name.rpartition(".")
    setattr(model.get_submodule(path), key, parameter)
