"""ONNX models of a single layer at chosen widths, for taking prices."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeprune.export.onnx_graph import RECURRENT
from edgeprune.export.segments import BINARY, CHANNELS_LAST, UNARY, Graph, Segment

Shape = tuple[int, ...]
POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"}
KEEPS_CHANNELS = frozenset(UNARY | BINARY | POOLS)


@dataclass(frozen=True)
class Template:
    """A layer whose widths can be changed.

    `width_in` and `width_out` are dense; `flat` is the number of entries a channel has in a
    flattened input; `resizable` is False for operators whose shape logic is not known here;
    `addends` holds the shapes of what fused operators read besides.
    """

    segment: Segment
    width_in: int
    width_out: int
    flat: int
    depthwise: bool
    resizable: bool
    input_shapes: tuple[Shape, ...]
    kinds: tuple[int, ...]
    addends: tuple[Shape, ...] = ()

    @property
    def widths(self) -> tuple[int, int]:
        """The dense widths."""
        return self.width_in, self.width_out


def template(graph: Graph, segment: Segment, group_width: int | None = None) -> Template:
    """Return the template of `segment`; `group_width` is the width of the group that feeds it."""
    node = segment.nodes[0]
    shapes = tuple(graph.shapes.get(name, ()) for name in segment.inputs)
    width_in = _channels(segment.input_shape, node.op_type)
    width_out = _channels(graph.shapes.get(node.output[0], ()), node.op_type)
    flat, depthwise = 1, False
    resizable = node.op_type in KEEPS_CHANNELS
    if node.op_type in ("Gemm", "MatMul"):
        weight = segment.weights.get(node.input[1])
        resizable = weight is not None and len(weight) == 2 and len(segment.inputs) == 1
        if group_width and width_in % group_width == 0:
            flat = width_in // group_width
    elif node.op_type in ("Conv", "ConvTranspose"):
        groups = _attribute(node, "group", 1)
        depthwise = groups > 1 and groups == width_in
        plain = groups == 1 or depthwise or node.op_type == "Conv"
        resizable = plain and node.input[1] in segment.weights
    elif node.op_type in RECURRENT:
        resizable = set(node.input[1:]) <= {*segment.weights, ""} and width_out == _attribute(
            node, "hidden_size", 0
        )
    kinds = tuple(onnx.TensorProto.FLOAT for _ in shapes)
    return Template(
        segment,
        width_in // flat,
        width_out,
        flat,
        depthwise,
        resizable and bool(width_in),
        shapes,
        kinds,
        tuple(graph.shapes.get(name, ()) for name in segment.addends),
    )


def kept_nodes(layer: Template) -> list[onnx.NodeProto]:
    """Return the nodes of the layer that its fragment has: the operator and what is fused behind.

    Behind a convolution these are its activations alone: an Add is part of its kernel in one memory
    layout and not in the other, and alone the other operand would stand in another layout than in
    the whole model. Matrices have one layout: bias and sums stay, which are nodes of their own.
    """
    segment = layer.segment
    chain = {name for node in segment.nodes for name in node.output}
    shapes = {n: shape for n, shape in segment.weights.items() if n not in segment.constants}
    shapes |= dict(zip(segment.addends, layer.addends, strict=True))

    def stays(node: onnx.NodeProto) -> bool:
        others = [name for name in node.input if name and name not in segment.constants]
        others = [name for name in others if name not in chain]
        if node.op_type in UNARY:
            return not others
        plain = node.op_type in BINARY and segment.operator in CHANNELS_LAST
        return plain and all(
            shapes.get(name, ())[-1:] in ((1,), (layer.width_out,)) for name in others
        )

    return [segment.nodes[0], *filter(stays, segment.nodes[1:])]


def fragment(layer: Template, width_in: int, width_out: int, seed: int = 0) -> bytes:
    """Return an ONNX model of `layer` at these widths, with random weights: see `kept_nodes`.

    What it leaves out the scale of the cost table accounts for.

    Raises:
        ValueError: the layer is not resizable and the widths are not its dense ones.
    """
    if not layer.resizable and (width_in, width_out) != layer.widths:
        raise ValueError(f"{layer.segment.name}: {layer.segment.operator} has no known shape logic")
    random = np.random.default_rng(seed)
    segment, source = layer.segment, layer.segment.nodes[0]
    node = copy.deepcopy(source)
    initializers = []

    def add_weight(name: str, shape: Shape) -> None:
        values = random.normal(0, 0.05, shape).astype(np.float32)
        initializers.append(numpy_helper.from_array(values, name))

    for index, name in enumerate(source.input):
        if name in source.input[:index]:
            continue  # both initial states of an LSTM may be the same constant
        known = segment.constants.get(name)
        if known is not None and (known.dtype.kind in "bi" or not known.shape):
            initializers.append(numpy_helper.from_array(known, name))
        elif name in segment.weights:
            add_weight(name, _resized(layer, index, segment.weights[name], width_in, width_out))
    if layer.depthwise:
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = width_in
    for attribute in node.attribute:
        if attribute.name == "hidden_size":
            attribute.i = width_out
    nodes = [node]
    inputs = [
        helper.make_tensor_value_info(name, kind, _input_shape(layer, shape, width_in))
        for name, shape, kind in zip(segment.inputs, layer.input_shapes, layer.kinds, strict=True)
    ]
    added = dict(zip(segment.addends, layer.addends, strict=True))
    chain = {name for n in segment.nodes for name in n.output}
    there = {tensor.name for tensor in initializers}
    for follower in kept_nodes(layer)[1:]:
        fused = copy.deepcopy(follower)
        for place, name in enumerate(follower.input):
            if name in chain:
                fused.input[place] = nodes[-1].output[0]
                continue
            if name in segment.inputs:  # which may have another width
                fused.input[place] = f"{name} added"
            if name and fused.input[place] not in there:
                there.add(fused.input[place])
                if name in added:
                    shape = _last_resized(layer, added[name], width_out)
                    kind = onnx.TensorProto.FLOAT
                    inputs.append(helper.make_tensor_value_info(fused.input[place], kind, shape))
                elif name in segment.constants:
                    value = segment.constants[name]
                    value = value.astype(np.float32) if value.dtype.kind == "f" else value
                    initializers.append(numpy_helper.from_array(value, name))
                else:
                    add_weight(name, _last_resized(layer, segment.weights[name], width_out))
        nodes.append(fused)
    output = helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
    return _serialized(helper.make_graph(nodes, "layer", inputs, [output], initializers))


def _last_resized(layer: Template, shape: Shape, width_out: int) -> Shape:
    return (*shape[:-1], width_out if shape[-1] == layer.width_out else shape[-1])


def _input_shape(layer: Template, shape: Shape, width_in: int) -> Shape:
    if not layer.resizable:
        return shape
    axis = len(shape) - 1 if layer.segment.operator in CHANNELS_LAST else 1
    resized = list(shape)
    if len(resized) > axis and resized[axis] == layer.width_in * layer.flat:
        resized[axis] = width_in * layer.flat
    return tuple(resized)


def _resized(layer: Template, index: int, shape: Shape, width_in: int, width_out: int) -> Shape:
    """Return the shape of weight number `index` of the layer's operator at these widths."""
    operator = layer.segment.operator
    if not layer.resizable:
        return shape
    if operator == "Conv":
        if index == 1:
            parts = 1 if layer.depthwise else _attribute(layer.segment.nodes[0], "group", 1)
            return (width_out, 1 if layer.depthwise else width_in // parts, *shape[2:])
        return (width_out,)
    if operator == "ConvTranspose":
        if index == 1:
            return (width_in, 1 if layer.depthwise else width_out, *shape[2:])
        return (width_out,)
    if operator in RECURRENT:
        rows = shape[1] // layer.width_out * width_out  # all gates; of both biases in B
        return {
            1: (shape[0], rows, width_in),
            2: (shape[0], rows, width_out),
            3: (shape[0], rows),
        }.get(index, (*shape[:-1], width_out))
    if operator in ("Gemm", "MatMul"):
        contracted = width_in * layer.flat
        if index == 1:
            transposed = _attribute(layer.segment.nodes[0], "transB", 0)
            return (width_out, contracted) if transposed else (contracted, width_out)
        return (width_out,) if len(shape) == 1 else (*shape[:-1], width_out)
    return tuple(width_out if size == layer.width_out else size for size in shape)


def _channels(shape: Shape, operator: str) -> int:
    if not shape:
        return 0
    if operator in CHANNELS_LAST:
        return shape[-1]
    return shape[1] if len(shape) > 1 else 0


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def smallest_model() -> bytes:
    """Return an ONNX model of one 3 x 3 convolution with 8 channels on 8 x 8 pixels."""
    weight = numpy_helper.from_array(np.full((8, 8, 3, 3), 0.01, dtype=np.float32), "weight")
    node = helper.make_node("Conv", ["x", "weight"], ["y"], name="conv", pads=[1, 1, 1, 1])
    shape = (1, 8, 8, 8)
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph([node], "smallest", values[:1], values[1:], [weight])
    return _serialized(graph)


def _serialized(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
