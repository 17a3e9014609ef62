"""Layers that a provider runs in one piece, whose costs cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgeprune.devices.gpu_times import HEAVY
from edgeprune.devices.protocol import NodeCosts
from edgeprune.export.segments import Segment

ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"})


def not_layout(node: NodeCosts) -> bool:
    """Tell whether a node that belongs to no layer does the work of layers all the same."""
    return node.compiled or node.operator in HEAVY | ATTENTION


def sub_graph(inside: Sequence[Segment], compilers: Mapping[str, int]) -> Segment:
    """Return the row of what providers compiled: the layers inside taken together."""
    name = f"{len(inside)} {'layer' if len(inside) == 1 else 'layers'} inside {_names(compilers)}"
    if not inside:
        return Segment(name, "sub-graph", [], [], name)
    first, last = inside[0], inside[-1]
    shapes = {name: segment.weights[name] for segment in inside for name in segment.weight_bytes}
    sizes = {name: size for segment in inside for name, size in segment.weight_bytes.items()}
    return Segment(
        name,
        "sub-graph",
        [],
        first.inputs,
        last.output,
        input_shape=first.input_shape,
        output_shape=last.output_shape,
        macs=sum(segment.macs for segment in inside),
        parameters=sum(map(math.prod, shapes.values())),
        parameter_bytes=sum(sizes.values()),
        activation_bytes=last.activation_bytes,
    )


def not_told_apart(inside: Sequence[Segment], compilers: Mapping[str, int]) -> tuple[str, ...]:
    """Return the warning about layers that have no cost of their own, if there are any."""
    if not inside:
        return ()
    parts = sum(compilers.values())
    names = ", ".join(segment.name for segment in inside)
    return (
        f"not covered: {_names(compilers)} runs {len(inside)} layers in "
        f"{'one piece' if parts == 1 else f'{parts} pieces'}, so that they have no costs of their "
        f"own (edgeprune plan prices each as a model of its own): {names}",
    )


def _names(compilers: Mapping[str, int]) -> str:
    return " and ".join(name.removesuffix("ExecutionProvider") for name in compilers)
