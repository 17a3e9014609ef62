"""Which of a layer's weights belong to a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeprune.errors import UsageError
from edgeprune.pruning import recurrent
from edgeprune.pruning.recurrent import RECURRENT

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
ROOTS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, *RECURRENT)


@dataclass(frozen=True)
class Member:
    """One layer of a group: channel k of the group is `indices[k]` along `side` of `layer`.

    A flattened layer holds several entries a channel: indices[k] then has more than one.
    """

    layer: str
    side: str  # "out" or "in"
    indices: tuple[tuple[int, ...], ...]


def is_carrier(module: nn.Module) -> bool:
    """Whether the layer passes channels on one to one (normalisation, depthwise, PReLU)."""
    if isinstance(module, CONVOLUTIONS + TRANSPOSED):
        return module.groups > 1 and module.groups == module.in_channels
    return not isinstance(module, (nn.Linear, nn.Embedding, *RECURRENT))


def reads_in_parts(module: nn.Module) -> bool:
    """Whether the layer is a grouped convolution whose parts hold several input channels each."""
    if not isinstance(module, CONVOLUTIONS + TRANSPOSED):
        return False
    return module.groups > 1 and not is_carrier(module)


def require_layers(model: nn.Module, keep: Iterable[str], floors: Iterable[str] = ()) -> None:
    """Make sure that `keep` names layers of `model`, or prefixes of them, and `floors` layers.

    Raises:
        UsageError: they do not; tells all faults at once.
    """
    layers = dict(model.named_modules())
    faults = [
        f"prune.keep: the model has no layer {name!r}"
        for name in keep
        if not any(layer == name or layer.startswith(f"{name}.") for layer in layers)
    ]
    faults += [
        f"prune.floors: the model has no layer {name!r}" for name in floors if name not in layers
    ]
    if faults:
        listed = ", ".join(name for name, layer in layers.items() if isinstance(layer, ROOTS))
        raise UsageError("\n".join(faults), f"its layers: {listed}")


def kept_by(keep: Iterable[str], layers: Iterable[str]) -> str:
    """Return why `layers` are never cut where `keep` names one of them, else "".

    Args:
        keep: layers, or prefixes of their names; or these -> the key of the job that names them,
            which otherwise is prune.keep.
        layers: that would be cut.
    """
    names = tuple(layers)
    for kept in keep:
        if any(name == kept or name.startswith(f"{kept}.") for name in names):
            key = keep[kept] if isinstance(keep, Mapping) else "prune.keep"
            return f"{key} names {kept}"
    return ""


def width_of(module: nn.Module) -> int:
    """Return the number of output channels of a layer that can number a group."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, RECURRENT):
        return recurrent.width_of(module, "out")
    return int(cast(Any, module).out_channels)


def rows(module: nn.Module, side: str, values: Callable[[str], Tensor | None]) -> Tensor | None:
    """Return [channels, values]: what belongs to each channel of `side` of `module`.

    Args:
        module: the layer.
        side: "out" for the channels it produces, "in" for those it consumes.
        values: parameter name -> tensor of its shape (its weights, gradients or anything else).

    Biases are left out. None for a layer that has no weights of its own a channel (a PReLU with
    one slope for all) or whose weights this function does not know.
    """
    if isinstance(module, RECURRENT):
        return recurrent.rows(module, side, values)
    tensor = values("weight")
    if tensor is None or (isinstance(module, nn.PReLU) and tensor.numel() == 1):
        return None
    if tensor.ndim == 1:
        return tensor[:, None]
    if isinstance(module, CONVOLUTIONS + TRANSPOSED):
        if is_carrier(module) or (side == "out") == isinstance(module, CONVOLUTIONS):
            return tensor.flatten(1)
        inner = tensor.shape[1]  # channels a convolution group
        blocks = tensor.reshape(module.groups, -1, inner, tensor[0, 0].numel())
        return blocks.movedim(2, 1).reshape(module.groups * inner, -1)
    if isinstance(module, nn.Linear):
        return tensor if side == "out" else tensor.t()
    if isinstance(module, nn.Embedding) and side == "out":
        return tensor.t()
    return None


def zero(module: nn.Module, side: str, indices: list[int]) -> None:
    """Set to 0 what `module` holds of the given channels."""
    if isinstance(module, RECURRENT):
        recurrent.zero(module, side, indices)
        return
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not indices or isinstance(module, nn.PReLU):
        return  # a slope of 0 is not a channel of 0; the layers around a PReLU are zeroed
    transposed = isinstance(module, TRANSPOSED)
    embedding = isinstance(module, nn.Embedding)
    with torch.no_grad():
        if side == "out" or is_carrier(module) or weight.ndim == 1:
            axis = 1 if embedding or (transposed and not is_carrier(module)) else 0
            weight.index_fill_(axis, torch.tensor(indices), 0.0)
            bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor):
                bias[indices] = 0.0
        elif isinstance(module, CONVOLUTIONS) and module.groups > 1:
            inner, outer = weight.shape[1], weight.shape[0] // module.groups
            for index in indices:
                part, place = divmod(index, inner)
                weight[part * outer : (part + 1) * outer, place] = 0.0
        else:
            weight.index_fill_(0 if transposed else 1, torch.tensor(indices), 0.0)
