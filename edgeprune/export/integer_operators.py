"""The integer operators that a QDQ model consists of, one record each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Int8s = NDArray[np.int8]
Int32s = NDArray[np.int32]


@dataclass(frozen=True)
class Tensor:
    """An int8 activation: real = scale * (integer - zero_point).

    `shape` is that of the ONNX model (batch 1 first). In memory an image is held with its channels
    last; `order[i]` is the ONNX index of the i-th element in memory.
    """

    name: str
    shape: Shape
    scale: float
    zero_point: int
    order: NDArray[np.int64]

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return math.prod(self.shape)

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels; signals [1, C, L] have height 1, vectors are 1 x 1."""
        if len(self.shape) == 4:
            return self.shape[2], self.shape[3], self.shape[1]
        if len(self.shape) == 3:
            return 1, self.shape[2], self.shape[1]
        return 1, 1, math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """Base: `name` is the ONNX node's, `layer` the torch layer's, `kind` the ONNX operator."""

    name: str
    layer: str
    kind: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Convolution(Operator):
    """`weights` [out, in / groups, h, w]; `pads` top, left, bottom, right; bias at s_in * s_w."""

    weights: Int8s
    weight_scales: NDArray[np.float64]
    bias: Int32s
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int

    @property
    def depthwise(self) -> bool:
        """Every input channel is convolved by itself."""
        return self.groups > 1 and self.weights.shape[1] == 1


@dataclass(frozen=True)
class FullyConnected(Operator):
    """`weights` [out, in], columns in the order of the input in memory."""

    weights: Int8s
    weight_scales: NDArray[np.float64]
    bias: Int32s


@dataclass(frozen=True)
class Pool(Operator):
    """Maximum or average over windows; the average counts what lies inside the image.

    `count_padding`: the average divides by the whole window.
    """

    maximum: bool
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    count_padding: bool


@dataclass(frozen=True)
class GlobalPool(Operator):
    """Average over the whole image, with a scale of its own."""


@dataclass(frozen=True)
class Addition(Operator):
    """Element-wise sum of two tensors of one shape."""


@dataclass(frozen=True)
class Concatenation(Operator):
    """Tensors side by side; in memory `blocks` runs of each input follow each other."""

    blocks: int


@dataclass(frozen=True)
class Lookup(Operator):
    """Any function of one value: entry i is the result for the integer i - 128."""

    table: Int8s


@dataclass(frozen=True)
class Softmax(Operator):
    """Softmax over `length` values that lie side by side."""

    length: int


@dataclass(frozen=True)
class Alias(Operator):
    """The same bytes under another shape."""


@dataclass(frozen=True)
class IntegerGraph:
    """Operators in execution order, and their tensors by name."""

    operators: tuple[Operator, ...]
    tensors: dict[str, Tensor]
    input: str
    output: str


def macs(operator: Operator, output: Tensor) -> int:
    """Return the multiply-accumulates of one operator."""
    if isinstance(operator, Convolution):
        return output.bytes * math.prod(operator.weights.shape[1:])
    if isinstance(operator, FullyConnected):
        return operator.weights.size
    return 0
