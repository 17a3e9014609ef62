"""Residual branches that can go as a whole: the skip connection carries on.

A branch is found in the autograd graph of one forward pass: what leads into one operand of an
addition, leads nowhere else, and is not needed for the other operand. Residual networks survive
the loss of single branches (Veit et al., arXiv 1605.06431).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.pruning.channels import ROOTS
from edgeprune.pruning.tracing import Node, behind, differentiable
from edgeprune.records import ChannelGroup, ResidualBlock

Inputs = tuple[Tensor, ...]
TOLERANCE = 1e-4  # of the largest output


class Removed(nn.Module):
    """Stands where a branch ended: a zero without dimensions, which an addition broadcasts."""

    zero: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, _: Tensor) -> Tensor:
        """Return 0 whatever comes in."""
        return self.zero


class Silent(nn.Module):
    """Stands for a recurrent layer in a branch: zeros of its shapes, which nobody needs."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        directions, width = 1 + layer.bidirectional, layer.proj_size or layer.hidden_size
        self.width, self.count = directions * width, directions * layer.num_layers
        self.states = (width, layer.hidden_size) if isinstance(layer, nn.LSTM) else (width,)
        self.axis = 0 if layer.batch_first else 1

    def forward(self, x: Tensor, _: Any = None) -> tuple[Tensor, Any]:
        """Return the outputs of all steps, and the last states."""
        batch = (x.shape[self.axis],) if x.dim() > 2 else ()
        last = tuple(x.new_zeros(self.count, *batch, width) for width in self.states)
        return x.new_zeros(*x.shape[:-1], self.width), last if len(last) > 1 else last[0]


def find_blocks(
    model: nn.Module, inputs: Inputs, groups: Sequence[ChannelGroup], keep: Sequence[str] = ()
) -> tuple[ResidualBlock, ...]:
    """Return the branches of `model` that can be removed, in the order of their modules.

    A branch is offered if every layer in it touches a group of channels that lies in it entirely,
    so that width 0 of these groups stands for it; if no layer in it runs twice or is in `keep`; and
    if the model without it is proved to give the output of the model whose branch yields 0.
    Of branches that share a group only the innermost is offered; and where the model without all of
    them is not proved, as few as that takes are not.
    """
    graph = _Graph.of(model, inputs)
    found: list[ResidualBlock] = []
    for addition in graph.readers:
        operands = [node for node, _ in addition.next_functions]
        if not addition.name().startswith("AddBackward") or len(operands) != 2:
            continue
        candidates = [
            block
            for branch, skip in (operands, operands[::-1])
            if (block := _block(graph, addition, branch, skip, model, groups)) is not None
        ]
        for block in sorted(candidates, key=lambda block: -len(block.layers))[:1]:
            kept = any(n == k or n.startswith(f"{k}.") for n in block.layers for k in keep)
            if not kept and _proved(model, inputs, [block]):
                found.append(block)
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    innermost: list[ResidualBlock] = []
    for block in sorted(found, key=lambda block: len(block.layers)):
        if not any(set(block.groups) & set(other.groups) for other in innermost):
            innermost.append(block)
    innermost.sort(key=lambda block: order[block.last])
    if len(innermost) < 2 or _proved(model, inputs, innermost):
        return tuple(innermost)
    together: list[ResidualBlock] = []
    for block in innermost:
        if not together or _proved(model, inputs, [*together, block]):
            together.append(block)
    return tuple(together)


def remove(model: nn.Module, blocks: Sequence[ResidualBlock]) -> None:
    """Take the layers of `blocks` out of `model`."""
    layers = dict(model.named_modules())
    for block in blocks:
        for name in block.layers:
            layer = layers[name]
            inner = Silent(layer) if isinstance(layer, nn.RNNBase) else nn.Identity()
            _replace(model, name, Removed() if name == block.last else inner)


def silence(model: nn.Module, blocks: Sequence[ResidualBlock]) -> None:
    """Make the branches of `blocks` yield 0 by setting the parameters of their last layer to 0."""
    layers = dict(model.named_modules())
    with torch.no_grad():
        for block in blocks:
            for parameter in layers[block.last].parameters():
                parameter.zero_()


@dataclass
class _Graph:
    """The autograd graph of a forward pass.

    `readers` holds who reads each node, `calls` the nodes that each of a module's calls gave and
    that are read, and `made` the module whose output a node is.
    """

    readers: dict[Node, list[Node]] = field(default_factory=dict)
    calls: dict[str, list[set[Node]]] = field(default_factory=dict)
    made: dict[Node, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs) -> _Graph:
        """Run a copy of `model` and return what led to its outputs."""
        graph, traced = cls(), copy.deepcopy(model).eval()
        hooks = []
        for name, layer in traced.named_modules():
            if next(layer.children(), None) is None:
                hooks.append(layer.register_forward_hook(graph._hook(name)))
        with differentiable(traced):
            outputs = pytree.tree_leaves(traced(*inputs))
        for hook in hooks:
            hook.remove()
        waiting = [out.grad_fn for out in outputs if isinstance(out, Tensor) and out.grad_fn]
        for node in waiting:
            graph.readers.setdefault(node, [None])  # the caller reads it
        while waiting:
            node = waiting.pop()
            for source, _ in node.next_functions:
                if source is None:
                    continue
                if source not in graph.readers:
                    graph.readers[source] = []
                    waiting.append(source)
                graph.readers[source].append(node)
        graph.calls = {
            name: [nodes & graph.readers.keys() for nodes in calls]
            for name, calls in graph.calls.items()
        }
        return graph

    def _hook(self, name: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            nodes = {out.grad_fn for out in _tensors(output) if out.grad_fn is not None}
            self.calls.setdefault(name, []).append(nodes)
            self.made.update(dict.fromkeys(nodes, name))

        return note


def _block(
    graph: _Graph,
    addition: Node,
    branch: Node,
    skip: Node,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
) -> ResidualBlock | None:
    """Return the branch that ends in `branch`, or None if it cannot be removed."""
    if branch is None or branch not in graph.made:
        return None
    inside = behind([branch]) - (behind([skip]) if skip is not None else set())
    if branch not in inside:
        return None
    for node in inside:
        outside = {addition} if node is branch else set()
        if not set(graph.readers[node]) <= inside | outside:
            return None
    layers, modules = [], dict(model.named_modules())
    for name, calls in graph.calls.items():
        if all(nodes and nodes <= inside for nodes in calls):
            layers.append(name)
        elif any(nodes & inside for nodes in calls) and _weighted(modules[name]):
            return None
    last = graph.made[branch]
    if any(len(graph.calls[name]) > 1 and _weighted(modules[name]) for name in layers):
        return None
    if last not in layers or not _weighted(modules[last]):
        return None
    within = set(layers)
    own = [g for g in groups if within.issuperset((*g.outputs, *g.inputs, *g.carriers))]
    touched = {name for g in own for name in (*g.outputs, *g.inputs, *g.carriers)}
    roots = {name for name in layers if isinstance(modules[name], ROOTS)}
    if not own or not roots <= touched:
        return None
    return ResidualBlock(last=last, layers=tuple(layers), groups=tuple(g.name for g in own))


def _proved(model: nn.Module, inputs: Inputs, blocks: Sequence[ResidualBlock]) -> bool:
    """Whether the model without the branches gives what it gives when they yield 0."""
    without, silent = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    silence(silent, blocks)
    yields: list[float] = []
    layers = dict(silent.named_modules())
    for block in blocks:
        layers[block.last].register_forward_hook(
            lambda _, __, out: yields.append(float(out.abs().max()))
        )
    remove(without, blocks)
    try:
        with torch.inference_mode():
            wanted = list(_tensors(silent(*inputs)))
            got = list(_tensors(without(*inputs)))
    except Exception:  # noqa: BLE001 - whatever breaks the model without the branch forbids it
        return False
    scale = max((float(out.abs().max()) for out in wanted), default=0.0) or 1.0
    return yields == [0.0] * len(blocks) and all(
        a.shape == b.shape and float((a - b).abs().max()) <= TOLERANCE * scale
        for a, b in zip(got, wanted, strict=True)
    )


def _weighted(layer: nn.Module) -> bool:
    return next(layer.parameters(), None) is not None


def _tensors(outputs: Any) -> Iterator[Tensor]:
    return (out for out in pytree.tree_leaves(outputs) if isinstance(out, Tensor))


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
