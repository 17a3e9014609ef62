"""A quantised ONNX graph without its conversions: the layers that it was made from."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgeprune.export.cleanup import attributes

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def is_quantized(graph: onnx.GraphProto) -> bool:
    """Return whether values of `graph` are converted to integers and back."""
    return any(node.op_type == DEQUANTIZE for node in graph.node)


def without_conversions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `proto` in QDQ form whose operators read each other's real values.

    Constants that were stored as integers become float32; names of operators, inputs and outputs
    stay. The copy has the layers and shapes of the model, not its outputs: the limits that the
    conversions put on values are gone, and with them every ReLU that a range stood for.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    graph = plain.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    results = {value.name for value in graph.output}
    same: dict[str, str] = {}  # a converted value -> the one that it was converted from
    for node in graph.node:
        if node.op_type == DEQUANTIZE and node.input[0] in constants:
            real = _dequantized(node, constants)
            graph.initializer.append(numpy_helper.from_array(real, node.output[0]))
        elif node.op_type in (QUANTIZE, DEQUANTIZE):
            same[node.output[0]] = same.get(node.input[0], node.input[0])
    for name in results & same.keys():  # an output keeps its name: its source takes it
        source = same.pop(name)
        same = {key: name if value == source else value for key, value in same.items()}
        same[source] = name
    kept = [node for node in graph.node if node.op_type not in (QUANTIZE, DEQUANTIZE)]
    for node in kept:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = same.get(name, name)
    for value in graph.value_info:
        value.name = same.get(value.name, value.name)
    read = {name for node in kept for name in node.input}
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    infos = [v for v in graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    for field, values in (("node", kept), ("initializer", stored), ("value_info", infos)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    return onnx.shape_inference.infer_shapes(plain)


def _dequantized(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the real values of a constant, with one scale or one for each entry of an axis."""
    arrays = [numpy_helper.to_array(constants[name]) for name in node.input if name]
    values, scale = arrays[0].astype(np.float64), arrays[1].astype(np.float64)
    zero = arrays[2].astype(np.float64) if len(arrays) > 2 else np.zeros_like(scale)
    if scale.size > 1:
        axis = int(attributes(node).get("axis", 1)) % values.ndim
        shape = [-1 if index == axis else 1 for index in range(values.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return np.asarray((values - zero) * scale, np.float32)
