"""A QDQ model as tensors: which float tensor stands for which int8 one, and the constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeprune.errors import UnsupportedModelError
from edgeprune.export.cleanup import Constants, constants, shapes
from edgeprune.export.integer_operators import Shape, Tensor

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
WAY_OUT = "replace the layer, or keep this model in float32 (emx-onnx-cgen)"
Array = NDArray[Any]


@dataclass(frozen=True)
class Weights:
    """A constant behind DequantizeLinear: integers and one scale, or one a channel."""

    values: Array
    scales: NDArray[np.float64]


class QdqTensors:
    """The tensors of a QDQ graph, declared node by node in execution order.

    `tensors` holds the int8 tensors; `real` maps a float tensor to the int8 one it stands for.
    """

    def __init__(self, graph: onnx.GraphProto, file: str) -> None:
        self.file = file
        self.values: Constants = constants(graph)
        self.tensors: dict[str, Tensor] = {}
        self.real: dict[str, str] = {}
        self._shapes = shapes(graph)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._weights: dict[str, Weights] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def refuse(self, node: onnx.NodeProto, why: str) -> UnsupportedModelError:
        """Return the error that says why `node` cannot become integer."""
        return UnsupportedModelError(
            f"{self.file}: layer {layer_of(node)!r}: operator {node.op_type} {why}", WAY_OUT
        )

    # ------------------------------------------------------------------ conversions

    def declare_input(self, node: onnx.NodeProto) -> Tensor:
        """Declare the network's input, which `node` quantises."""
        shape = self._shapes[node.input[0]]
        if not shape or shape[0] != 1 or len(shape) > 4 or 0 in shape:
            raise UnsupportedModelError(
                f"{self.file}: input {node.input[0]!r} has shape {list(shape)}",
                "C code takes one sample at a time: [1, features], [1, C, L] or [1, C, H, W]",
            )
        return self._add(node.output[0], shape, *self.parameters(node), natural_order(shape))

    def declare_constant_or_reader(self, node: onnx.NodeProto) -> None:
        """Note what a DequantizeLinear makes real: a tensor or a constant."""
        source, result = node.input[0], node.output[0]
        if source in self.tensors:
            tensor = self.tensors[source]
            if self.parameters(node) != (tensor.scale, tensor.zero_point):
                raise self.refuse(node, "reads with another scale than was written")
            self.real[result] = source
        elif source in self.values:
            zero = self.values.get(node.input[2]) if len(node.input) > 2 else None
            scales = np.asarray(self.values[node.input[1]], np.float64).ravel()
            values = self.values[source]
            if zero is None or not np.any(zero):
                self._weights[result] = Weights(values, scales)
            elif values.size == 1:
                moved = values.astype(np.float64) - zero.astype(np.float64)
                self.values[result] = moved * scales
            else:
                raise self.refuse(node, "has weights with a zero point other than 0")
        else:
            raise self.refuse(node, "reads what is neither constant nor int8")

    def parameters(self, node: onnx.NodeProto) -> tuple[float, int]:
        """Return scale and int8 zero point of a conversion; uint8 is the same, moved by 128."""
        scale = self.values.get(node.input[1])
        point = self.values.get(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if scale is None or point is None or scale.size != 1:
            raise self.refuse(node, "has more than one scale, or one that is computed")
        if point.dtype not in (np.int8, np.uint8):
            raise self.refuse(node, f"converts to {point.dtype}")
        moved = 128 if point.dtype == np.uint8 else 0
        return float(scale.reshape(())), int(point.reshape(())) - moved

    # ---------------------------------------------------------------------- look-ups

    def source(self, node: onnx.NodeProto, index: int = 0) -> Tensor:
        """Return the int8 tensor that input `index` of `node` stands for."""
        name = self.real.get(node.input[index])
        if name is None:
            raise self.refuse(node, f"reads {node.input[index]!r}, which is not int8")
        return self.tensors[name]

    def result(self, node: onnx.NodeProto, order: Array | None = None) -> Tensor:
        """Declare the int8 result of `node`: what the only QuantizeLinear behind it writes."""
        readers = self._readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != QUANTIZE:
            raise self.refuse(node, "gives a result that is also used in float")
        shape = self._shapes.get(node.output[0]) or self._shapes.get(readers[0].output[0], ())
        if not shape or 0 in shape or len(shape) > 4 or shape[0] != 1:
            raise self.refuse(node, f"gives shape {list(shape)}; needed is one sample, rank 2-4")
        parameters = self.parameters(readers[0])
        chosen = natural_order(shape) if order is None else order
        return self._add(readers[0].output[0], shape, *parameters, chosen)

    def rescaled(self, node: onnx.NodeProto) -> Tensor:
        """Declare the result of a QuantizeLinear that follows a DequantizeLinear."""
        source = self.source(node)
        return self._add(node.output[0], source.shape, *self.parameters(node), source.order)

    def weights(self, node: onnx.NodeProto, outputs: int) -> tuple[Weights, NDArray[np.int32]]:
        """Return the weights of `node`, with one scale for each of its `outputs`, and its bias."""
        weights = self._weights.get(node.input[1])
        if weights is None or weights.values.dtype != np.int8:
            raise self.refuse(node, "has weights that are not int8 constants")
        scales = np.broadcast_to(weights.scales, (outputs,)).copy()
        bias = np.zeros(outputs, np.int32)
        if len(node.input) > 2 and node.input[2]:
            found = self._weights.get(node.input[2])
            if found is None or found.values.dtype != np.int32:
                raise self.refuse(node, "has a bias that is not an int32 constant")
            bias = found.values.reshape(-1).astype(np.int32)
        return Weights(weights.values, scales), bias

    def constant(self, name: str) -> Array | None:
        """Return a constant, also one that the quantiser has turned into int8."""
        if name in self._weights:
            return np.asarray(self._weights[name].values * self._weights[name].scales)
        return self.values.get(name)

    def _add(self, name: str, shape: Shape, scale: float, zero: int, order: Array) -> Tensor:
        tensor = Tensor(name, shape, scale, zero, order)
        self.tensors[name] = tensor
        return tensor


def natural_order(shape: Shape) -> NDArray[np.int64]:
    """Return the ONNX indices of a tensor's elements in memory order, channels last."""
    indices = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    return np.moveaxis(indices, 1, -1).ravel() if len(shape) > 2 else indices.ravel()


def layer_of(node: onnx.NodeProto) -> str:
    """Return the torch layer a node comes from, or its own name."""
    return node.name.rpartition("/")[0] or node.name or node.output[0]
