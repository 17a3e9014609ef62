"""Real values to the int8 of the generated C code, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.export.integer_operators import Tensor
from edgeprune.records import QuantizedTensor


def border(tensor: Tensor) -> QuantizedTensor:
    """Return an input or output of a network as the C code holds it."""
    rank = len(tensor.shape)
    permutation = (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))
    return QuantizedTensor(
        name=tensor.name.removesuffix("_QuantizeLinear_Output"),
        shape=tensor.shape,
        permutation=permutation,
        scale=tensor.scale,
        zero_point=tensor.zero_point,
    )


def encode(tensor: QuantizedTensor, array: NDArray[Any]) -> NDArray[np.int8]:
    """Return `array` (shape of `tensor`, real values) as the C code expects it.

    Rounds half to even and saturates, as ONNX's QuantizeLinear does; axes in the order of
    `tensor.permutation`, contiguous.
    """
    scaled = np.rint(np.asarray(array, np.float32) / np.float32(tensor.scale)) + tensor.zero_point
    integers = np.clip(scaled, -128, 127).astype(np.int8).reshape(tensor.shape)
    return np.ascontiguousarray(integers.transpose(tensor.permutation))


def decode(tensor: QuantizedTensor, integers: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return the real values, in the shape of `tensor`, of what the C code wrote."""
    permuted = tuple(tensor.shape[axis] for axis in tensor.permutation)
    ordered = (
        np.asarray(integers, np.int8).reshape(permuted).transpose(np.argsort(tensor.permutation))
    )
    real = (ordered.astype(np.float32) - tensor.zero_point) * np.float32(tensor.scale)
    return np.asarray(real, np.float32)
