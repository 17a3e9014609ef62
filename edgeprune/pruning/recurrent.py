"""Hidden units of LSTM, GRU and RNN layers: where their weights stand, and their removal.

Hidden unit k holds row k of every gate in `weight_ih`, `weight_hh` and the biases, column k of
`weight_hh`, and column k of `weight_ih` of the layers stacked above. torch-pruning 1.6.1 cuts only
one gate's rows, so the cut is made here. Bidirectional layers and projections are left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
Place = tuple[str, int, int]  # parameter, axis, how often the width repeats along it


def places(layer: nn.RNNBase, side: str) -> Iterator[Place]:
    """Yield where the channels of `side` ("in": input features, "out": hidden units) stand."""
    for name, parameter in layer.named_parameters():
        gates = parameter.shape[0] // layer.hidden_size
        first = name.endswith("_l0")
        if side == "in":
            if name.startswith("weight_ih") and first:
                yield name, 1, 1
            continue
        yield name, 0, gates
        if name.startswith("weight_hh") or (name.startswith("weight_ih") and not first):
            yield name, 1, 1


def positions(channels: Sequence[int], width: int, repeats: int) -> Tensor:
    """Return the indices of `channels` in an axis that holds `repeats` blocks of `width`."""
    block = torch.tensor(list(channels), dtype=torch.long)
    return torch.cat([block + width * gate for gate in range(repeats)])


def remove(layer: nn.RNNBase, side: str, gone: Sequence[int]) -> None:
    """Remove input features or hidden units from `layer`, in place.

    Raises:
        ValueError: the layer is bidirectional or has a projection.
    """
    if layer.bidirectional or layer.proj_size:
        raise ValueError("bidirectional and projected recurrent layers cannot be cut")
    width = width_of(layer, side)
    kept = [k for k in range(width) if k not in set(gone)]
    for name, axis, repeats in list(places(layer, side)):
        old = getattr(layer, name)
        index = positions(kept, width, repeats)
        new = nn.Parameter(old.detach().index_select(axis, index), requires_grad=old.requires_grad)
        if old.grad is not None:
            new.grad = old.grad.index_select(axis, index)
        setattr(layer, name, new)
    if side == "in":
        layer.input_size = len(kept)
    else:
        layer.hidden_size = len(kept)
    layer.flatten_parameters()


def zero(layer: nn.RNNBase, side: str, channels: Sequence[int]) -> None:
    """Set to 0 all that belongs to the given channels; such hidden units then stay 0 for ever."""
    width = width_of(layer, side)
    with torch.no_grad():
        for name, axis, repeats in places(layer, side):
            getattr(layer, name).index_fill_(axis, positions(channels, width, repeats), 0.0)


def rows(layer: nn.RNNBase, side: str, values: Callable[[str], Tensor | None]) -> Tensor:
    """Return [channels, values]: what `values` (parameter -> tensor) holds of each channel.

    Biases are left out, as everywhere in importance.
    """
    width = width_of(layer, side)
    found: list[Tensor] = []
    for name, axis, repeats in places(layer, side):
        tensor = values(name)
        if tensor is not None and tensor.ndim == 2:
            blocks = tensor.movedim(axis, 0).reshape(repeats, width, -1)
            found.append(blocks.movedim(1, 0).reshape(width, -1))
    return torch.cat(found, 1)


def width_of(layer: nn.RNNBase, side: str) -> int:
    """Return the number of input features or hidden units."""
    return int(layer.input_size if side == "in" else layer.hidden_size)


class _OneNode(torch.autograd.Function):
    """Outputs already computed, as one node of the autograd graph behind `entered`.

    `leaf` requires a gradient, so that there is a node even where `entered` is the model's input.
    """

    @staticmethod
    def forward(ctx: Any, entered: Tensor, leaf: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.clone() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("this graph is for tracing only")


@contextlib.contextmanager
def as_single_nodes(model: nn.Module) -> Iterator[None]:
    """Let each recurrent layer appear as one node while the model is traced.

    Otherwise the graph holds the operations inside (a GRU's gates confuse torch-pruning), and final
    states hang on nodes that no layer is known for.
    """
    layers = [m for m in model.modules() if isinstance(m, RECURRENT) and "forward" not in vars(m)]

    def traced(layer: nn.RNNBase) -> Callable[..., Any]:
        def forward(entered: Any, hx: Any = None) -> Any:
            with torch.no_grad():
                result: Any = type(layer).forward(layer, entered, hx)
            if not isinstance(entered, Tensor):
                return result
            flat = (result[0], *result[1]) if isinstance(result[1], tuple) else result
            leaf = torch.zeros((), requires_grad=True)
            output, *states = _OneNode.apply(entered, leaf, *flat)  # type: ignore[no-untyped-call]
            return output, tuple(states) if isinstance(result[1], tuple) else states[0]

        return forward

    for layer in layers:
        object.__setattr__(layer, "forward", traced(layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "forward")
