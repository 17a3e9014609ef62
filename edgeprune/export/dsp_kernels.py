"""Convolutions for processors with DSP extension: weights laid out as edgeprune_dsp.h says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.export.integer_operators import Convolution, FullyConnected, Tensor
from edgeprune.export.kernel import Constant, Kernel
from edgeprune.export.requantize import factors

SOURCES = (
    "edgeprune_dsp.h",
    "edgeprune_simd.h",
    "edgeprune_convolve.c",
    "edgeprune_depthwise.c",
    "edgeprune_fully_connected.c",
)
WORD = 4


def convolution(op: Convolution, source: Tensor, output: Tensor) -> Kernel:
    """Return the kernel of a convolution with any number of groups.

    Scratch: two columns of int16, and where the channels of a group do not fill words one column
    of int8.
    """
    rows = op.weights.shape[0] // op.groups
    run = op.weights.shape[1]
    matrix = op.weights.transpose(0, 2, 3, 1).reshape(op.groups, rows, -1)
    packed = [_interleave(group, 2) for group in matrix]
    words = -(-matrix.shape[2] // WORD)
    scratch = 4 * WORD * words + (WORD * words if run % WORD else 0)
    return Kernel(
        "dsp_convolution",
        _shape(op, source, output),
        (_words(np.concatenate(packed)), *_output(op, source, output, matrix)),
        scratch,
    )


def depthwise(op: Convolution, source: Tensor, output: Tensor) -> Kernel:
    """Return the kernel of a depthwise convolution with one filter a channel.

    Scratch: a pointer and an offset for each tap, and one pixel of padding.
    """
    channels, taps = op.weights.shape[0], op.weights.shape[2] * op.weights.shape[3]
    flat = op.weights.reshape(channels, taps)
    whole = channels // WORD * WORD
    blocks = flat[:whole].reshape(-1, WORD, taps).transpose(0, 2, 1)[:, :, [0, 2, 1, 3]]
    packed = np.concatenate([blocks.ravel(), flat[whole:].ravel()]).astype("<i2")
    words = np.pad(packed, (0, packed.size % 2)).view("<i4")
    return Kernel(
        "dsp_depthwise",
        _shape(op, source, output),
        (Constant("weights", "int32_t", words), *_output(op, source, output, flat)),
        2 * WORD * taps + -(-channels // WORD) * WORD,
        taps,
    )


def fully_connected(op: FullyConnected, source: Tensor, output: Tensor) -> Kernel:
    """Return the kernel of a matrix product; it needs no scratch."""
    arguments = {
        "inputs": op.weights.shape[1],
        "outputs": op.weights.shape[0],
        "output_zero_point": output.zero_point,
    }
    constants = (_words(_interleave(op.weights, 4)), *_output(op, source, output, op.weights))
    return Kernel("dsp_fully_connected", arguments, constants)


def _interleave(rows: NDArray[np.int8], together: int) -> NDArray[np.int8]:
    """Pad rows to whole words; let the words of `together` rows alternate, the last rows follow."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % WORD)))
    whole = len(rows) // together * together
    blocks = padded[:whole].reshape(-1, together, padded.shape[1] // WORD, WORD)
    return np.concatenate([blocks.transpose(0, 2, 1, 3).ravel(), padded[whole:].ravel()])


def _words(values: NDArray[np.int8]) -> Constant:
    return Constant("weights", "uint32_t", np.ascontiguousarray(values).view("<u4"))


def _output(
    op: Convolution | FullyConnected, source: Tensor, output: Tensor, rows: NDArray[np.int8]
) -> tuple[Constant, Constant]:
    """Return bias, with the input's zero point folded in, and scales."""
    sums = rows.reshape(len(op.bias), -1).astype(np.int64).sum(axis=1)
    bias = op.bias.astype(np.int64) - source.zero_point * sums
    wrapped = bias.astype(np.int32)  # sums on the processor wrap as well
    scale = factors(source.scale, op.weight_scales, output.scale).astype(np.float32)
    return Constant("bias", "int32_t", wrapped), Constant("scale", "float", scale)


def _shape(op: Convolution, source: Tensor, output: Tensor) -> dict[str, Any]:
    return {
        "input": source.image,
        "output": output.image,
        "kernel": op.weights.shape[2:],
        "strides": op.strides,
        "padding": op.pads[:2],
        "dilations": op.dilations,
        "groups": op.groups,
        "zero_point": source.zero_point,
        "output_zero_point": output.zero_point,
    }
