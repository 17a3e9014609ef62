"""Layers that a provider runs in one piece, and bodies of loops: their costs are another node's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgeprune.devices.gpu_times import HEAVY
from edgeprune.devices.protocol import ModelAnswer, NodeCosts
from edgeprune.export.segments import Segment

ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"})

BODIED = frozenset({"Loop", "Scan", "If"})  # operators whose attributes are graphs of their own


def without_bodies(answer: ModelAnswer) -> ModelAnswer:
    """Return `answer` without the nodes that run inside of others: their time is the outer node's.

    These are the nodes that run another number of times than the model, as the body of a loop does,
    and those that lie within a node of control flow in every run, as a branch does.
    """
    count = len(answer.runs)
    once = [node for node in answer.nodes if not count or len(node.values) == count]
    outer = [node for node in once if node.operator in BODIED]
    kept = tuple(node for node in once if not any(_within(node, other) for other in outer))
    return answer.model_copy(update={"nodes": kept})


def above_their_cost(answer: ModelAnswer) -> tuple[str, ...]:
    """Return the warning about nodes of control flow in `answer`, if there are any."""
    names = ", ".join(node.name for node in answer.nodes if node.operator in BODIED)
    if not names:
        return ()
    return (f"the cost of {names} holds what the profiler adds to each node inside: it is less",)


def _within(node: NodeCosts, outer: NodeCosts) -> bool:
    if node is outer or not len(node.starts) == len(outer.starts) > 0:
        return False
    spans = zip(node.starts, outer.starts, outer.values, strict=True)
    return all(start <= began < start + length for began, start, length in spans)


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
