"""How an ONNX graph falls into layers: a weighted operator and the cheap ones fused behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeprune.errors import UnsupportedModelError
from edgeprune.export.conversions import is_quantized, without_conversions
from edgeprune.export.onnx_graph import RECURRENT, fixed_shape, load

HOSTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})  # cheap operators fuse into these
ANCHORS = HOSTS | RECURRENT
CHANNELS_LAST = frozenset({"Gemm", "MatMul"}) | RECURRENT
UNARY = frozenset(
    {
        "Relu",
        "Clip",
        "LeakyRelu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Elu",
        "Gelu",
        "Identity",
    }
)
BINARY = frozenset({"Add", "Mul", "Sub"})
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
SHORT = 64  # entries of an operand of integers
Shape = tuple[int, ...]


@dataclass
class Segment:
    """A layer as a runtime executes it.

    `name` is the torch layer where known, with a number for further calls, and `layer` is without
    one; `nodes` start with the anchor; `output` is what other layers read; `addends` are
    activations that a fused Add reads besides the chain; `constants` holds the values of scalar
    operands and of short ones of integers; `weight_bytes` the sizes of what counts as a parameter.
    """

    name: str
    operator: str
    nodes: list[onnx.NodeProto]
    inputs: list[str]
    output: str
    weights: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    addends: list[str] = field(default_factory=list)
    input_shape: Shape = ()
    output_shape: Shape = ()
    macs: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    activation_bytes: int = 0
    layer: str = ""
    weight_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def aliases(self) -> set[str]:
        """Names under which a runtime may report this layer."""
        return (
            {self.name} | {n.name for n in self.nodes} | {o for n in self.nodes for o in n.output}
        )

    def kind_of(self, weight: str) -> Literal["in", "hidden", ""]:
        """Return on which width a weight depends besides that of the layer's output.

        "in" for the weight of the operator, "hidden" for the recurrent one, which has the output's
        width twice, and "" for biases, scales and initial states.
        """
        operands = list(self.nodes[0].input)
        if self.operator in ANCHORS and weight == operands[1]:
            return "in"
        hidden = self.operator in RECURRENT and weight == operands[2]
        return "hidden" if hidden else ""


@dataclass(frozen=True)
class Graph:
    """The layers of an ONNX model in execution order, with all shapes."""

    segments: tuple[Segment, ...]
    shapes: dict[str, Shape]
    element_bytes: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(segment.macs for segment in self.segments)

    @property
    def parameters(self) -> int:
        """Number of weights; those that several layers read count once."""
        return sum(math.prod(s.weights[n]) for s in self.segments for n in self.stored[s.name])

    @cached_property
    def stored(self) -> dict[str, tuple[str, ...]]:
        """Layer -> its weights without those of other layers: the file holds each of them once.

        A weight that several layers read is the first one's, of weighted operators before others.
        """
        found: dict[str, tuple[str, ...]] = {}
        seen: set[str] = set()
        for segment in sorted(self.segments, key=lambda s: s.operator not in ANCHORS):
            found[segment.name] = tuple(n for n in segment.weight_bytes if n not in seen)
            seen |= {*segment.weight_bytes}
        return found

    def peak_activation_bytes(self) -> int:
        """Return the largest sum of activations alive at one time, fused layers as one step."""
        return max(sum(map(self.bytes_of, alive)) for _, alive in self.alive())

    def alive(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return (layer, tensors alive while it runs) in execution order.

        Inputs count while they are still to be read. A fused layer's inner tensors do not exist,
        and a fused Add writes over its addend where that dies there, as onnxruntime does, unless
        the layer reads it besides.
        """
        last: dict[str, int] = {}
        for step, segment in enumerate(self.segments):
            for name in (*segment.inputs, *segment.addends):
                last[name] = step
        for name in self.outputs:
            last[name] = len(self.segments)
        alive = dict.fromkeys(self.inputs)
        steps = [("inputs", tuple(alive))]
        for step, segment in enumerate(self.segments):
            for name in segment.addends:
                dies = last[name] == step and name not in segment.inputs
                if dies and self.bytes_of(name) == self.bytes_of(segment.output):
                    alive.pop(name, None)
                    break
            alive[segment.output] = None
            steps.append((segment.name, tuple(alive)))
            alive = {name: None for name in alive if last.get(name, -1) > step}
        return steps

    def moved_bytes(self, segment: Segment) -> int:
        """Return what a layer has to read and write at least: activations and weights."""
        tensors = {*segment.inputs, *segment.addends, segment.output}
        return sum(self.bytes_of(name) for name in tensors) + segment.parameter_bytes

    def bytes_of(self, name: str) -> int:
        """Return the size of a tensor."""
        return math.prod(self.shapes.get(name, (0,))) * self.element_bytes.get(name, 4)


def read_graph(path: Path) -> Graph:
    """Return the layers of the ONNX file at `path`; of an int8 model, those without conversions.

    Raises:
        UnsupportedModelError: not an ONNX model.
    """
    proto = load(path)
    quantized = is_quantized(proto.graph)
    if quantized:
        proto = without_conversions(proto)
    graph = proto.graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    sizes = {tensor.name: _element_bytes(tensor.data_type) for tensor in graph.initializer}
    shapes: dict[str, Shape] = dict(constants)
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = fixed_shape(value)
        if shape is not None:
            shapes[value.name] = shape
        sizes[value.name] = _element_bytes(value.type.tensor_type.elem_type)
    floats = {t.name for t in graph.initializer if t.data_type in FLOATS}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = shapes.get(node.output[0], ())
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    for name in inputs:
        if name not in shapes:
            raise UnsupportedModelError(
                f"{path.name}: input {name!r} has no fixed shape",
                "edgeprune profile takes --shape; or export the model with fixed shapes",
            )
    segments = _partition(graph, constants)
    operands = _operands(graph)
    for segment in segments:
        segment.constants = {
            n: operands[n] for node in segment.nodes for n in node.input if n in operands
        }
        _measure(segment, shapes, sizes, constants, floats)
    outputs = tuple(value.name for value in graph.output)
    found = Graph(tuple(segments), shapes, sizes, inputs, outputs)
    return as_int8(found) if quantized else found


def as_int8(graph: Graph) -> Graph:
    """Return the layers of a float graph with the bytes of int8: biases take four, the rest one."""
    segments = []
    for segment in graph.segments:
        sizes = {
            name: math.prod(segment.weights[name]) * (4 if len(segment.weights[name]) == 1 else 1)
            for name in segment.weight_bytes
        }
        segments.append(
            replace(
                segment,
                weight_bytes=sizes,
                parameter_bytes=sum(sizes.values()),
                activation_bytes=math.prod(segment.output_shape),
            )
        )
    element_bytes = dict.fromkeys(graph.element_bytes, 1)
    return replace(graph, segments=tuple(segments), element_bytes=element_bytes)


def _operands(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Return the constants that are not weights: limits of a Clip, axes, target shapes."""
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if math.prod(tensor.dims) <= (1 if tensor.data_type in FLOATS else SHORT)
    }


def _partition(graph: onnx.GraphProto, constants: dict[str, Shape]) -> list[Segment]:
    """Assign every node to one layer; a fused Add belongs to the later of its producers."""
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for value in graph.output:
        readers[value.name] = readers.get(value.name, 0) + 1
    owner: dict[str, Segment] = {}
    segments: list[Segment] = []
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        data = [name for name in node.input if name and name not in constants]
        host = _host(node, data, owner, readers, segments)
        if host is None:
            name = node.name.rpartition("/")[0] or node.name or node.output[0]
            host = Segment(name, node.op_type, [node], list(dict.fromkeys(data)), node.output[0])
            segments.append(host)
        else:
            host.nodes.append(node)
            host.addends += [name for name in data if owner.get(name) is not host]
            host.output = node.output[0]
            segments.remove(host)  # it runs when its last operand is there
            segments.append(host)
        for name in node.input:
            if name in constants:
                host.weights.setdefault(name, constants[name])
        for output in node.output:
            owner[output] = host
    _make_unique(segments)
    return segments


def _host(
    node: onnx.NodeProto,
    data: list[str],
    owner: dict[str, Segment],
    readers: dict[str, int],
    segments: list[Segment],
) -> Segment | None:
    """Return the layer that swallows `node`, or None if it starts one of its own."""
    unary = node.op_type in UNARY and len(data) == 1
    if not unary and node.op_type not in BINARY:
        return None
    best: Segment | None = None
    for name in data:
        host = owner.get(name)
        if host is None or host.operator not in HOSTS or host.output != name or readers[name] != 1:
            continue
        if best is None or segments.index(host) > segments.index(best):
            best = host
    return best


def _make_unique(segments: list[Segment]) -> None:
    """Number layers of the same name; the one with the weights keeps it."""
    seen: dict[str, int] = {}
    for segment in sorted(segments, key=lambda segment: segment.operator not in ANCHORS):
        segment.layer = segment.name
        seen[segment.name] = seen.get(segment.name, 0) + 1
        if seen[segment.name] > 1:
            segment.name = f"{segment.name}/{segment.operator}_{seen[segment.name]}"


def _measure(
    segment: Segment,
    shapes: dict[str, Shape],
    sizes: dict[str, int],
    constants: dict[str, Shape],
    floats: set[str],
) -> None:
    node = segment.nodes[0]
    segment.input_shape = shapes.get(segment.inputs[0], ()) if segment.inputs else ()
    segment.output_shape = shapes.get(segment.output, ())
    segment.activation_bytes = math.prod(segment.output_shape) * sizes.get(segment.output, 4)
    # Axes, limits and target shapes are operands, not weights.
    counted = {name: shape for name, shape in segment.weights.items() if name in floats and shape}
    segment.parameters = sum(math.prod(shape) for shape in counted.values())
    segment.weight_bytes = {n: math.prod(s) * sizes.get(n, 4) for n, s in counted.items()}
    segment.parameter_bytes = sum(segment.weight_bytes.values())
    weight = constants.get(node.input[1]) if len(node.input) > 1 else None
    first_output = shapes.get(node.output[0], ())
    if not first_output:
        return
    if node.op_type in ("Gemm", "MatMul"):
        contracted = segment.input_shape[-1] if segment.input_shape else 0
        segment.macs = math.prod(first_output) * contracted
    elif weight is None:
        return
    elif node.op_type in RECURRENT:  # W [directions, gates * hidden, input], R alike
        steps = math.prod(segment.input_shape[:-1])
        segment.macs = steps * math.prod(weight[:-1]) * (weight[-1] + first_output[-1])
    elif node.op_type == "Conv":
        segment.macs = math.prod(first_output) * math.prod(weight[1:])
    elif node.op_type == "ConvTranspose":
        segment.macs = math.prod(segment.input_shape) * math.prod(weight[1:])


def _element_bytes(kind: int) -> int:
    if kind == onnx.TensorProto.UNDEFINED:
        return 4
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
