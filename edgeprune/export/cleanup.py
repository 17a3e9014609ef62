"""Rewrites of a float ONNX graph after which every operator has an integer form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Constants = dict[str, NDArray[np.generic]]


def prepare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `proto` (fixed shapes, shapes inferred) that computes the same.

    Constants become initializers, Identity and Dropout vanish, zero padding moves into the
    convolution behind it, means over the image become GlobalAveragePool, and products with a
    constant matrix become Gemm with its bias.
    """
    cleaned = onnx.ModelProto()
    cleaned.CopyFrom(proto)
    steps: tuple[Callable[[onnx.GraphProto], None], ...] = (
        _constants_to_initializers,
        _drop_identities,
        _fold_padding,
        _means_to_pools,
        _products_to_gemm,
        _drop_unused,
    )
    for step in steps:
        step(cleaned.graph)
    del cleaned.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(cleaned)


def constants(graph: onnx.GraphProto) -> Constants:
    """Return the values of all initializers."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors that state one; unknown dimensions are 0."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return found


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        value = node.attribute[0]
        if value.name != "value":
            continue
        tensor = graph.initializer.add()
        tensor.CopyFrom(value.t)
        tensor.name = node.output[0]
        graph.node.remove(node)


def _drop_identities(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    for node in [n for n in graph.node if n.op_type in ("Identity", "Dropout")]:
        if node.output[0] in outputs:
            continue
        _replace_input(graph, node.output[0], node.input[0])
        graph.node.remove(node)


def _fold_padding(graph: onnx.GraphProto) -> None:
    """Move Pad (constant, 0, height and width only) into the only reader if it is a Conv."""
    values = constants(graph)
    for node in [n for n in graph.node if n.op_type == "Pad"]:
        readers = list(_readers(graph, node.output[0]))
        if len(readers) != 1 or readers[0].op_type != "Conv" or _pads(readers[0]) is None:
            continue
        mode = attributes(node).get("mode", b"constant")
        amounts = values.get(node.input[1])
        fill = values.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        plain = mode == b"constant" and (fill is None or not np.any(fill))
        if not plain or amounts is None or len(node.input) > 3 or min(amounts.tolist()) < 0:
            continue
        rank = len(amounts) // 2
        if np.any(amounts[[0, 1, rank, rank + 1]]):
            continue
        spatial = [*amounts[2:rank], *amounts[rank + 2 :]]
        before = _pads(readers[0]) or [0] * len(spatial)
        total = [int(a) + b for a, b in zip(spatial, before, strict=True)]
        _set_attribute(readers[0], "pads", total)
        readers[0].input[0] = node.input[0]
        graph.node.remove(node)


def _pads(node: onnx.NodeProto) -> list[int] | None:
    """Return explicit pads of a Conv (empty: none), or None if they are automatic."""
    found = attributes(node)
    if found.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    pads = found.get("pads", [])
    return list(pads) if isinstance(pads, list) else None


def _means_to_pools(graph: onnx.GraphProto) -> None:
    values, known = constants(graph), shapes(graph)
    for index, node in enumerate(list(graph.node)):
        if node.op_type != "ReduceMean":
            continue
        found = attributes(node)
        rank = len(known.get(node.input[0], ()))
        listed = values.get(node.input[1]) if len(node.input) > 1 else found.get("axes")
        if rank < 3 or listed is None:
            continue
        axes = sorted(int(axis) % rank for axis in np.asarray(listed).ravel())
        if axes != list(range(2, rank)):
            continue
        keep = bool(found.get("keepdims", 1))
        pooled = node.output[0] if keep else f"{node.output[0]}/pooled"
        graph.node.remove(node)
        name = node.name.replace("ReduceMean", "GlobalAveragePool")
        replacement = helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name)
        graph.node.insert(index, replacement)
        if not keep:
            flat = helper.make_node("Flatten", [pooled], [node.output[0]], f"{name}/Flatten")
            graph.node.insert(index + 1, flat)
            _means_to_pools(graph)  # positions have moved
            return


def _products_to_gemm(graph: onnx.GraphProto) -> None:
    """Turn MatMul of a matrix with a constant, and the constant Add behind it, into one Gemm."""
    values, known = constants(graph), shapes(graph)
    outputs = {value.name for value in graph.output}
    for node in [n for n in graph.node if n.op_type == "MatMul"]:
        weight = values.get(node.input[1])
        if weight is None or weight.ndim != 2 or len(known.get(node.input[0], ())) != 2:
            continue
        node.op_type = "Gemm"
        readers = list(_readers(graph, node.output[0]))
        if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in outputs:
            continue
        others = [name for name in readers[0].input if name != node.output[0]]
        bias = values.get(others[0]) if len(others) == 1 else None
        if bias is None or bias.shape != (weight.shape[1],):
            continue
        node.input.append(others[0])
        node.output[0] = readers[0].output[0]
        graph.node.remove(readers[0])


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _readers(graph: onnx.GraphProto, name: str) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if name in node.input)


def _replace_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _set_attribute(node: onnx.NodeProto, name: str, value: list[int]) -> None:
    for item in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(item)
    node.attribute.append(helper.make_attribute(name, value))
