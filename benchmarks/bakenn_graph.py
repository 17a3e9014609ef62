"""The integer graph of edgeprune as a graph of bakenn: the same weights, scales and zero points.

bakenn 1.0 reads torch.export and TFLite, not ONNX, so its graph is built through its own classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from bakenn.ir import QuantizedGraph
from bakenn.ir.graph import LinearOp
from bakenn.ir.ops.conv import Conv2DOp, DepthwiseConv2DOp
from bakenn.ir.ops.elementwise import AddOp, RequantizeOp
from bakenn.ir.ops.pool import AveragePool2DOp, MaxPool2DOp
from bakenn.ir.ops.shape import FlattenOp
from bakenn.ir.ops.softmax import SoftmaxOp
from bakenn.ir.types import DType, Layout, PerAxisQParams, PerTensorQParams, TensorType

from edgeprune.export.integer_operators import (
    Addition,
    Alias,
    Convolution,
    FullyConnected,
    GlobalPool,
    IntegerGraph,
    Operator,
    Pool,
    Softmax,
    Tensor,
)


class NotRebuiltError(Exception):
    """bakenn has no equal of an operator; the text says which and why."""


def rebuild(graph: IntegerGraph, name: str) -> tuple[QuantizedGraph, tuple[str, ...]]:
    """Return the graph for bakenn, and what about it is not the same arithmetic.

    Raises:
        NotRebuiltError: an operator has no equal there.
    """
    made = _Builder(graph)
    for operator in graph.operators:
        made.add(operator)
    rebuilt = QuantizedGraph(
        name, made.values, made.constants, tuple(made.operators), (graph.input,), (graph.output,)
    )
    return rebuilt, tuple(dict.fromkeys(made.remarks))


class _Builder:
    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.values: dict[str, TensorType] = {}
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.operators: list[Any] = []
        self.remarks: list[str] = []
        self._declare(graph.input)

    def add(self, op: Operator) -> None:
        source, output = (self.graph.tensors[name] for name in (op.inputs[0], op.output))
        common = {"name": f"op_{len(self.operators)}", "input": op.inputs[0]}
        if isinstance(op, Convolution):
            self._convolution(op, source, output, common)
        elif isinstance(op, FullyConnected):
            common["input"] = self._vector(op.inputs[0])
            weight = self._weights(op, op.weights, Layout.OI, 0, source)
            self._finish(LinearOp(**common, **weight, output=op.output), output)
        elif isinstance(op, Pool):
            if op.count_padding and any(op.pads):
                raise NotRebuiltError(f"{op.layer}: an average that counts the padding")
            kind = MaxPool2DOp if op.maximum else AveragePool2DOp
            window = {"kernel": op.kernel, "stride": op.strides, "padding": _edges(op.pads)}
            self._finish(kind(**common, **window, output=op.output), output)
        elif isinstance(op, GlobalPool):
            self._global_pool(op, source, output, common)
        elif isinstance(op, Addition):
            added = AddOp(common["name"], op.inputs[0], op.inputs[1], op.output)
            self._finish(added, output)
        elif isinstance(op, Softmax):
            self._finish(SoftmaxOp(**common, output=op.output), output)
        elif isinstance(op, Alias):
            self._finish(FlattenOp(**common, output=op.output), output)
        else:
            raise NotRebuiltError(f"{op.layer}: {op.kind} has no equal in bakenn 1.0")

    def _convolution(
        self, op: Convolution, source: Tensor, output: Tensor, common: dict[str, Any]
    ) -> None:
        window = {"stride": op.strides, "dilation": op.dilations, "padding": _edges(op.pads)}
        if op.depthwise:
            flat = op.weights[:, 0].transpose(1, 2, 0)
            weight = self._weights(op, flat, Layout.HWO, 2, source)
            multiple = op.weights.shape[0] // op.groups
            made: Any = DepthwiseConv2DOp(
                **common, **weight, **window, output=op.output, depth_multiplier=multiple
            )
        else:
            weight = self._weights(op, op.weights.transpose(0, 2, 3, 1), Layout.OHWI, 0, source)
            made = Conv2DOp(**common, **weight, **window, output=op.output, groups=op.groups)
        self._finish(made, output)

    def _global_pool(
        self, op: GlobalPool, source: Tensor, output: Tensor, common: dict[str, Any]
    ) -> None:
        """An average keeps its scale in bakenn: the change of scale is a step of its own."""
        height, width, channels = source.image
        average = f"{op.output}_average"
        self.values[average] = TensorType(
            (1, 1, 1, channels), DType.INT8, Layout.NHWC, _scale(source)
        )
        window = {"kernel": (height, width), "stride": (height, width)}
        self.operators.append(AveragePool2DOp(**common, **window, output=average))
        self._finish(RequantizeOp(f"{common['name']}_scale", average, op.output), output)
        self.remarks.append(
            "the global average is rounded twice, since bakenn's keeps the scale of its input"
        )

    def _weights(
        self,
        op: Convolution | FullyConnected,
        values: np.ndarray[Any, Any],
        layout: Layout,
        axis: int,
        source: Tensor,
    ) -> dict[str, str]:
        if values.min(initial=0) < -127:
            raise NotRebuiltError(f"{op.layer}: bakenn takes weights from -127 on")
        scales = np.asarray(op.weight_scales, np.float32)
        zeros = (0,) * len(scales)
        names = {"weight": f"{op.output}_weight", "bias": f"{op.output}_bias"}
        per_axis = PerAxisQParams(tuple(map(float, scales)), zeros, axis)
        products = tuple(float(np.float32(source.scale) * scale) for scale in scales)
        self.values[names["weight"]] = TensorType(values.shape, DType.INT8, layout, per_axis)
        self.constants[names["weight"]] = np.ascontiguousarray(values)
        self.values[names["bias"]] = TensorType(
            op.bias.shape, DType.INT32, Layout.C, PerAxisQParams(products, zeros, 0)
        )
        self.constants[names["bias"]] = op.bias
        return names

    def _vector(self, name: str) -> str:
        """Return the tensor as bakenn's matrix product wants it: [1, n]."""
        if len(self.values[name].shape) == 2:
            return name
        flat = f"{name}_flat"
        if flat not in self.values:
            self.values[flat] = self._type(name, flat=True)
            self.operators.append(FlattenOp(f"op_{len(self.operators)}_flat", name, flat))
        return flat

    def _finish(self, made: Any, output: Tensor) -> None:
        self.operators.append(made)
        self._declare(output.name)

    def _declare(self, name: str) -> None:
        self.values[name] = self._type(name, flat=len(self.graph.tensors[name].shape) == 2)

    def _type(self, name: str, *, flat: bool) -> TensorType:
        tensor = self.graph.tensors[name]
        shape = (1, math.prod(tensor.shape)) if flat else (1, *tensor.image)
        layout = Layout.NC if flat else Layout.NHWC
        return TensorType(shape, DType.INT8, layout, _scale(tensor))


def _scale(tensor: Tensor) -> PerTensorQParams:
    return PerTensorQParams(tensor.scale, tensor.zero_point)


def _edges(pads: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return top, bottom, left, right
