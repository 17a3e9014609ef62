"""From an ONNX model in QDQ form to a list of integer operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeprune.errors import UnsupportedModelError
from edgeprune.export.cleanup import attributes
from edgeprune.export.integer_operators import (
    Addition,
    Alias,
    Concatenation,
    Convolution,
    FullyConnected,
    GlobalPool,
    IntegerGraph,
    Lookup,
    Operator,
    Pool,
    Softmax,
    Tensor,
)
from edgeprune.export.onnx_graph import load
from edgeprune.export.qdq import (
    DEQUANTIZE,
    QUANTIZE,
    Array,
    QdqTensors,
    layer_of,
    natural_order,
)

Attributes = dict[str, Any]
Function = Callable[[Array, Attributes], Array]

FUNCTIONS: dict[str, Function] = {
    "Relu": lambda x, a: np.maximum(x, 0),
    "LeakyRelu": lambda x, a: np.where(x < 0, x * a.get("alpha", 0.01), x),
    "Sigmoid": lambda x, a: 1 / (1 + np.exp(-x)),
    "Tanh": lambda x, a: np.tanh(x),
    "HardSigmoid": lambda x, a: np.clip(x * a.get("alpha", 0.2) + a.get("beta", 0.5), 0, 1),
    "HardSwish": lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1),
    QUANTIZE: lambda x, a: x,
}

ARITHMETIC: dict[str, Callable[[Any, Any], Array]] = {
    "Add": np.add,
    "Mul": np.multiply,
}


def read_integer_graph(path: Path) -> IntegerGraph:
    """Return the integer operators of the QDQ model at `path`.

    Requires: batch 1, one input, one output, fixed shapes, int8 or uint8 activations with one
    scale a tensor, weights symmetric.

    Raises:
        UnsupportedModelError: an operator has no integer form; names the layer and a way out.
    """
    graph = load(path).graph
    tensors = QdqTensors(graph, path.name)
    inputs = [value.name for value in graph.input if value.name not in tensors.values]
    outputs = [value.name for value in graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnsupportedModelError(
            f"{path.name} has {len(inputs)} inputs and {len(outputs)} outputs",
            "C code is generated for models with one input and one output",
        )
    operators: list[Operator] = []
    entry = None
    for node in graph.node:
        if node.op_type == DEQUANTIZE:
            tensors.declare_constant_or_reader(node)
        elif node.op_type != QUANTIZE:
            operators.append(_operator(tensors, node))
        elif node.input[0] == inputs[0] and entry is None:
            entry = tensors.declare_input(node).name
        elif node.input[0] in tensors.real:
            operators.append(_lookup(tensors, node))
        elif node.output[0] not in tensors.tensors:
            raise tensors.refuse(node, "reads a tensor that is not int8 anywhere else")
    result = tensors.real.get(outputs[0])
    if entry is None or result is None:
        raise UnsupportedModelError(
            f"{path.name} is not an int8 model: its input or output is not quantised",
            "quantise it first: edgeprune.export.quantization.quantize",
        )
    return IntegerGraph(tuple(operators), tensors.tensors, entry, result)


def _operator(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    reader = READERS.get(node.op_type)
    if reader is None:
        raise tensors.refuse(node, "has no integer kernel")
    return reader(tensors, node)


def _common(node: onnx.NodeProto, *inputs: Tensor, output: Tensor) -> dict[str, Any]:
    return {
        "name": node.name or node.output[0],
        "layer": layer_of(node),
        "kind": node.op_type,
        "inputs": tuple(tensor.name for tensor in inputs),
        "output": output.name,
    }


def _convolution(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    source, found = tensors.source(node), attributes(node)
    output = tensors.result(node)
    weights, bias = tensors.weights(node, output.image[2])
    values = weights.values
    if values.ndim == 3:
        values = values[:, :, None, :]
    if values.ndim != 4 or _automatic(found):
        raise tensors.refuse(node, "is not a 1-D or 2-D convolution with explicit padding")
    return Convolution(
        **_common(node, source, output=output),
        weights=values,
        weight_scales=weights.scales,
        bias=bias,
        strides=_pair(found.get("strides")),
        pads=_edges(found.get("pads")),
        dilations=_pair(found.get("dilations")),
        groups=found.get("group", 1),
    )


def _fully_connected(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    source, found = tensors.source(node), attributes(node)
    if found.get("transA", 0) or found.get("alpha", 1.0) != 1 or found.get("beta", 1.0) != 1:
        raise tensors.refuse(node, "has transA, alpha or beta")
    output = tensors.result(node)
    weights, bias = tensors.weights(node, output.bytes)
    values = weights.values if found.get("transB", 0) else weights.values.T
    return FullyConnected(
        **_common(node, source, output=output),
        weights=np.ascontiguousarray(values[:, source.order]),
        weight_scales=weights.scales,
        bias=bias,
    )


def _pool(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    source, found = tensors.source(node), attributes(node)
    if _automatic(found) or max(_pair(found.get("dilations"))) > 1 or len(node.output) > 1:
        raise tensors.refuse(node, "has dilation, automatic padding or indices")
    if found.get("ceil_mode", 0) and found.get("count_include_pad", 0):
        raise tensors.refuse(node, "has ceil_mode with count_include_pad")
    output = tensors.result(node)
    _require_same_scale(tensors, node, source, output)
    return Pool(
        **_common(node, source, output=output),
        maximum=node.op_type == "MaxPool",
        kernel=_pair(found["kernel_shape"]),
        strides=_pair(found.get("strides")),
        pads=_edges(found.get("pads")),
        count_padding=bool(found.get("count_include_pad", 0)),
    )


def _global_pool(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    source = tensors.source(node)
    return GlobalPool(**_common(node, source, output=tensors.result(node)))


def _arithmetic(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    """Read a sum or product of two operands, one of which may be a constant number."""
    operation = ARITHMETIC[node.op_type]
    for index in (0, 1):
        number = tensors.constant(node.input[1 - index])
        if number is not None and number.size == 1:
            value = float(number.reshape(()))
            return _lookup(tensors, node, partial(_apply, operation, value), index)
    if node.op_type != "Add":
        raise tensors.refuse(node, "has no integer kernel for two tensors")
    return _addition(tensors, node)


def _apply(operation: Callable[[Any, Any], Array], value: float, x: Array, _: Attributes) -> Array:
    return operation(x, value)


def _addition(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    first, second = tensors.source(node), tensors.source(node, 1)
    if first.shape != second.shape or not np.array_equal(first.order, second.order):
        raise tensors.refuse(node, f"adds {list(first.shape)} and {list(second.shape)}")
    output = tensors.result(node, first.order)
    return Addition(**_common(node, first, second, output=output))


def _concatenation(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    sources = [tensors.source(node, index) for index in range(len(node.input))]
    rank = len(sources[0].shape)
    axis = int(attributes(node)["axis"]) % rank
    order = None
    if rank == 2 and axis == 1:
        starts = np.cumsum([0, *(tensor.bytes for tensor in sources[:-1])])
        moved = [tensor.order + start for tensor, start in zip(sources, starts, strict=True)]
        order = np.concatenate(moved)
    output = tensors.result(node, order)
    memory = [0, *range(2, rank), 1]  # batch, height, width, channels
    blocks = math.prod(output.shape[a] for a in memory[: memory.index(axis)])
    return Concatenation(**_common(node, *sources, output=output), blocks=blocks)


def _clip(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    limits: list[float] = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        given = len(node.input) > index and node.input[index]
        limit = tensors.constant(node.input[index]) if given else np.array(default)
        if limit is None:
            raise tensors.refuse(node, "has limits that are computed")
        limits.append(float(limit.reshape(())))
    return _lookup(tensors, node, lambda x, _: np.clip(x, limits[0], limits[1]))


def _lookup(
    tensors: QdqTensors, node: onnx.NodeProto, function: Function | None = None, index: int = 0
) -> Operator:
    source = tensors.source(node, index)
    if node.op_type == QUANTIZE:  # from one scale to another
        output = tensors.rescaled(node)
    else:
        output = tensors.result(node, source.order)
    real = (np.arange(-128, 128, dtype=np.float64) - source.zero_point) * source.scale
    mapped = (function or FUNCTIONS[node.op_type])(real, attributes(node))
    table = np.clip(np.rint(mapped / output.scale) + output.zero_point, -128, 127)
    return Lookup(**_common(node, source, output=output), table=table.astype(np.int8))


def _softmax(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    source = tensors.source(node)
    axis = attributes(node).get("axis", -1) % len(source.shape)
    natural = np.array_equal(source.order, natural_order(source.shape))
    if axis != 1 or not natural:
        raise tensors.refuse(node, "runs over another axis than the channels")
    output = tensors.result(node, source.order)
    return Softmax(**_common(node, source, output=output), length=source.image[2])


def _reshape(tensors: QdqTensors, node: onnx.NodeProto) -> Operator:
    source = tensors.source(node)
    output = tensors.result(node, source.order)
    _require_same_scale(tensors, node, source, output)
    if len(output.shape) > 2 and not np.array_equal(natural_order(output.shape), source.order):
        raise tensors.refuse(
            node, f"from {list(source.shape)} to {list(output.shape)} moves values in memory"
        )
    return Alias(**_common(node, source, output=output))


def _require_same_scale(
    tensors: QdqTensors, node: onnx.NodeProto, source: Tensor, output: Tensor
) -> None:
    if (source.scale, source.zero_point) != (output.scale, output.zero_point):
        raise tensors.refuse(node, "changes the scale; quantise with edgeprune's quantiser")


def _automatic(found: Attributes) -> bool:
    return found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


def _pair(value: list[int] | None) -> tuple[int, int]:
    """Return (height, width); a 1-D operator runs over the width."""
    if not value:
        return 1, 1
    return (1, value[0]) if len(value) == 1 else (value[0], value[1])


def _edges(value: list[int] | None) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right)."""
    if not value:
        return 0, 0, 0, 0
    return (0, value[0], 0, value[1]) if len(value) == 2 else (value[0], value[1], *value[2:4])  # type: ignore[return-value]


READERS: dict[str, Callable[[QdqTensors, onnx.NodeProto], Operator]] = {
    "Conv": _convolution,
    "Gemm": _fully_connected,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    "Concat": _concatenation,
    "Clip": _clip,
    "Softmax": _softmax,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys((name for name in FUNCTIONS if name != QUANTIZE), partial(_lookup)),
}
