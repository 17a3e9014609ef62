"""Several integer graphs as one, so that one program holds the layers of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeprune.errors import InternalCheckError
from edgeprune.export.integer_operators import Alias, IntegerGraph, Operator, Tensor
from edgeprune.export.qdq import natural_order

SCALE = 1 / 32  # of the shared input: inputs of standard deviation 1 fill the range of int8


def join(graphs: Sequence[IntegerGraph]) -> IntegerGraph:
    """Return a graph that runs `graphs` one after the other, each on the first bytes of one input.

    Ensures: the operators of each graph in order, with their own shapes, scales and weights; a
    layer executes what it executes in its own graph, up to the few instructions that load other
    addresses. The result of the last operator is the output; all others are dropped.

    Raises:
        InternalCheckError: no graph has an operator that computes anything.
    """
    size = max(graph.tensors[graph.input].bytes for graph in graphs)
    shared = Tensor("input", (1, size), SCALE, 0, natural_order((1, size)))
    operators: list[Operator] = []
    tensors = {shared.name: shared}
    result = None
    for number, graph in enumerate(graphs):
        own = {name: f"{number}/{name}" for name in graph.tensors}
        tensors |= {own[name]: replace(t, name=own[name]) for name, t in graph.tensors.items()}
        entry = own[graph.input]
        operators.append(Alias(f"{number}/entry", "", "Reshape", (shared.name,), entry))
        for operator in graph.operators:
            inputs = tuple(own[name] for name in operator.inputs)
            operators.append(replace(operator, inputs=inputs, output=own[operator.output]))
            if not isinstance(operator, Alias):
                result = own[operator.output]
    if result is None:
        raise InternalCheckError("none of the joined models computes anything")
    return IntegerGraph(tuple(operators), tensors, shared.name, result)


def computing(graph: IntegerGraph) -> int:
    """Return how many operators of `graph` become a function of the C code."""
    return sum(not isinstance(operator, Alias) for operator in graph.operators)
