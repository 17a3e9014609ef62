"""Masks of torch.nn.utils.prune: put on by a job, or carried by a model that is given."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from edgeprune.errors import UnsupportedModelError
from edgeprune.pruning.channels import CONVOLUTIONS, TRANSPOSED, is_carrier, rows
from edgeprune.pruning.groups import find_groups, mask, members
from edgeprune.pruning.unseen import told
from edgeprune.records import MaskedLayer

LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)


def carried(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters that carry a mask of torch.nn.utils.prune."""
    return tuple(
        f"{name}.{key.removesuffix('_mask')}" if name else key.removesuffix("_mask")
        for name, module in model.named_modules()
        for key in dict(module.named_buffers(recurse=False))
        if key.endswith("_mask") and f"{key.removesuffix('_mask')}_orig" in module._parameters
    )


def permanent(model: nn.Module) -> nn.Module:
    """Return a copy of `model` without masks: its masked weights are zero."""
    names = carried(model)
    for name in names:
        owner, key = _owner(model, name)
        # The product of weight and mask, which each forward pass makes anew; with a history of
        # gradients it could not be copied.
        setattr(owner, key, getattr(owner, key).detach().clone())
    plain = copy.deepcopy(model)
    for name in names:
        owner, key = _owner(plain, name)
        prune.remove(owner, key)
    return plain.eval()


def counts(model: nn.Module, names: Sequence[str]) -> tuple[MaskedLayer, ...]:
    """Return how many weights each named parameter has, and how many of them are zero."""
    found = []
    for name in names:
        weight: Tensor = getattr(*_owner(model, name))
        found.append(MaskedLayer(name=name, weights=weight.numel(), zeros=int((weight == 0).sum())))
    return tuple(found)


def put_on(
    model: nn.Module, kind: str, amount: float, *, seed: int, keep: Collection[str] = ()
) -> tuple[str, ...]:
    """Mask single weights of the convolutions and linear layers of `model`, in place.

    `l1` takes the smallest absolute weights of each layer, `global` those of the whole model,
    `random` draws them. A second call masks `amount` of what the first one left.

    Args:
        model: the model.
        kind: "l1", "random" or "global".
        amount: share of the weights.
        seed: of `random`.
        keep: layers, or prefixes of their names, that stay as they are.

    Returns:
        The names of the masked parameters.

    Raises:
        UnsupportedModelError: there is no layer to mask.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
        and not any(name == k or name.startswith(f"{k}.") for k in keep)
    }
    if not layers:
        raise UnsupportedModelError("the model has no convolution or linear layer to mask")
    if kind == "global":
        pairs = [(module, "weight") for module in layers.values()]
        prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=amount)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in layers.values():
                if kind == "random":
                    prune.random_unstructured(module, "weight", amount)
                else:
                    prune.l1_unstructured(module, "weight", amount)
    return tuple(f"{name}.weight" for name in layers)


def mask_channels(
    model: nn.Module, inputs: tuple[Tensor, ...], amount: float, *, keep: Collection[str] = ()
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy of `model` with the channels of smallest L2 norm zero, and what was masked.

    torch's LnStructured chooses them from the weights of all layers that produce a group's channels
    together: coupled layers lose the same channels, or none could be removed. Channels that can
    only go in bundles are chosen in bundles, and the narrowest width stays. Biases and
    normalisation of these channels become zero too.

    Raises:
        UnsupportedModelError: no group of channels can be cut.
    """
    found = find_groups(model, inputs, keep)
    if not found.groups:
        reasons = "; ".join(told(found.skipped)) or "it has no layer with channels"
        raise UnsupportedModelError(
            f"the model has no group of channels that can be masked ({reasons})"
        )
    traced, layers = members(model, inputs), dict(model.named_modules())
    method = prune.LnStructured(amount, n=2, dim=0)
    kept: dict[str, list[int]] = {}
    masked: list[str] = []
    for group in found.groups:
        producers = [
            m for m in traced[group.name] if m.side == "out" and not is_carrier(layers[m.layer])
        ]
        stacked = torch.cat([_values(layers[m.layer], m.indices) for m in producers], 1)
        bundles = group.bundles()  # single channels, but for grouped convolutions and heads
        by_bundle = torch.stack([stacked[list(bundle)].flatten() for bundle in bundles])
        chosen = method.compute_mask(by_bundle, torch.ones_like(by_bundle))[:, 0]
        order = torch.argsort(by_bundle.norm(dim=1), descending=True, stable=True).tolist()
        least = group.narrowest // group.divisor
        stay = {*chosen.nonzero().flatten().tolist(), *order[:least]}
        kept[group.name] = sorted(channel for k in stay for channel in bundles[k])
        masked += [f"{m.layer}.weight" for m in producers if hasattr(layers[m.layer], "weight")]
    return mask(model, inputs, kept), tuple(dict.fromkeys(masked))


def hold_zeros(model: nn.Module, names: Sequence[str]) -> None:
    """Keep the zeros of the named parameters at zero while `model` is trained, in place.

    Layers that left with a removed branch have no parameters to hold.
    """
    for name in names:
        owner, key = _owner(model, name)
        if not hasattr(owner, key):
            continue
        zeros = getattr(owner, key) == 0
        parametrize.register_parametrization(owner, key, _Held(~zeros))


def release(model: nn.Module) -> nn.Module:
    """Undo `hold_zeros`, in place; the zeros stay."""
    for module in list(model.modules()):
        parametrized: Any = getattr(module, "parametrizations", None)
        for key in list(parametrized or ()):
            if any(isinstance(held, _Held) for held in parametrized[key]):
                parametrize.remove_parametrizations(module, key, leave_parametrized=True)
    return model


class _Held(nn.Module):
    """Multiplies a weight with a fixed mask."""

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.kept


def _values(layer: nn.Module, indices: Sequence[Sequence[int]]) -> Tensor:
    """Return [channels of the group, values] of the weights that produce them."""
    found = rows(layer, "out", lambda key: _parameters(layer).get(key))
    assert found is not None
    return torch.stack([found[list(at)].flatten() for at in indices]).detach()


def _parameters(layer: nn.Module) -> Mapping[str, Tensor]:
    return dict(layer.named_parameters(recurse=False))


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, key = name.rpartition(".")
    return model.get_submodule(path), key
