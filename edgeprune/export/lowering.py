"""Which kernel computes an integer operator, with which constants and how much scratch."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from edgeprune.errors import UnsupportedModelError
from edgeprune.export import cmsis_nn, dsp_kernels
from edgeprune.export.integer_operators import (
    Addition,
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
from edgeprune.export.kernel import Constant, Kernel
from edgeprune.export.requantize import factors, high_word, multiplier_and_shift, weighted_sum
from edgeprune.records import Target

Kernels = Literal["edgeprune", "cmsis_nn"]


def lower(operator: Operator, graph: IntegerGraph, target: Target, kernels: Kernels) -> Kernel:
    """Return the kernel for `operator` on `target`.

    `kernels` chooses between our own convolutions, which exist for the DSP extension, and those of
    CMSIS-NN; other targets and operators take whatever there is.

    Raises:
        UnsupportedModelError: there is none.
    """
    sources = [graph.tensors[name] for name in operator.inputs]
    output = graph.tensors[operator.output]
    own = target == "dsp" and kernels == "edgeprune"
    if isinstance(operator, Convolution):
        if own and not operator.depthwise:
            return dsp_kernels.convolution(operator, sources[0], output)
        if own and operator.weights.shape[0] == operator.groups:
            return dsp_kernels.depthwise(operator, sources[0], output)
        return _convolution(operator, sources[0], output, target)
    if isinstance(operator, FullyConnected):
        if own:
            return dsp_kernels.fully_connected(operator, sources[0], output)
        return _fully_connected(operator, sources[0], output)
    if isinstance(operator, Pool):
        return _pool(operator, sources[0], output)
    if isinstance(operator, GlobalPool):
        return _global_pool(operator, sources[0], output)
    if isinstance(operator, Addition):
        return _addition(sources[0], sources[1], output)
    if isinstance(operator, Concatenation):
        return _concatenation(operator, sources, output)
    if isinstance(operator, Lookup):
        table = Constant("table", "int8_t", operator.table)
        return Kernel("lookup", {"count": output.bytes}, (table,))
    if isinstance(operator, Softmax):
        return _softmax(operator, sources[0], output)
    raise UnsupportedModelError(f"layer {operator.layer!r}: {operator.kind} has no integer kernel")


def _scaling(
    op: Convolution | FullyConnected, source: Tensor, output: Tensor
) -> tuple[Constant, Constant, Constant]:
    """Return bias, multipliers and shifts, one each an output channel, for CMSIS-NN."""
    exact = factors(source.scale, op.weight_scales, output.scale)
    split = np.array([multiplier_and_shift(float(factor)) for factor in exact], np.int32)
    return (
        Constant("bias", "int32_t", op.bias),
        Constant("multiplier", "int32_t", split[:, 0].copy()),
        Constant("shift", "int32_t", split[:, 1].copy()),
    )


def _dims(image: tuple[int, int, int], batch: int = 1) -> tuple[int, int, int, int]:
    return batch, *image


def _convolution(op: Convolution, source: Tensor, output: Tensor, target: Target) -> Kernel:
    channels = source.image[2]
    if op.groups > 1 and op.groups != channels:
        raise UnsupportedModelError(
            f"layer {op.layer!r}: operator Conv has {op.groups} groups of "
            f"{channels // op.groups} channels; CMSIS-NN 4.0 knows only 1 group or depthwise",
            "use groups=1 or groups=in_channels, or split the layer into one for each group",
        )
    common = {
        "input_offset": -source.zero_point,
        "output_offset": output.zero_point,
        "strides": op.strides,
        "padding": op.pads[:2],
        "dilations": op.dilations,
        "input": _dims(source.image),
        "output": _dims(output.image),
    }
    height, width = op.weights.shape[2:]
    if op.groups > 1:
        weights = op.weights[:, 0].transpose(1, 2, 0)
        return Kernel(
            "depthwise",
            {
                **common,
                "filter": (1, height, width, output.image[2]),
                "multiple": output.image[2] // channels,
            },
            (Constant("weights", "int8_t", weights), *_scaling(op, source, output)),
            cmsis_nn.depthwise_scratch(op, source, target),
            functions=("arm_depthwise_conv_wrapper_s8",),
        )
    weights = op.weights.transpose(0, 2, 3, 1)
    return Kernel(
        "convolution",
        {**common, "filter": (output.image[2], height, width, channels)},
        (Constant("weights", "int8_t", weights), *_scaling(op, source, output)),
        cmsis_nn.convolution_scratch(op, source, output, target),
        functions=("arm_convolve_wrapper_s8",),
    )


def _fully_connected(op: FullyConnected, source: Tensor, output: Tensor) -> Kernel:
    """One scale a channel, which CMSIS-NN 4.0 has only in its matrix product of 1 x 1 kernels."""
    return Kernel(
        "fully_connected",
        {
            "input_offset": -source.zero_point,
            "output_offset": output.zero_point,
            "inputs": op.weights.shape[1],
            "outputs": op.weights.shape[0],
        },
        (Constant("weights", "int8_t", op.weights), *_scaling(op, source, output)),
        functions=("arm_nn_mat_mult_nt_t_s8",),
    )


def _pool(op: Pool, source: Tensor, output: Tensor) -> Kernel:
    common = {
        "strides": op.strides,
        "padding": op.pads[:2],
        "kernel": op.kernel,
        "input": _dims(source.image),
        "output": _dims(output.image),
    }
    if op.maximum:
        return Kernel("max_pool", common, functions=("arm_max_pool_s8",))
    extra = {"count_padding": int(op.count_padding), "zero_point": source.zero_point}
    return Kernel("average_pool", {**common, **extra})


def _global_pool(op: GlobalPool, source: Tensor, output: Tensor) -> Kernel:
    height, width, channels = source.image
    pixels = height * width
    factor = high_word([source.scale / output.scale / pixels], op.layer)
    return Kernel(
        "global_average",
        {
            "pixels": pixels,
            "channels": channels,
            "constant": -source.zero_point * pixels,
            "multiplier": int(factor.multipliers[0]),
            "shift": factor.shift,
            "zero_point": output.zero_point,
        },
    )


def _addition(first: Tensor, second: Tensor, output: Tensor) -> Kernel:
    parts = [(t.scale, t.zero_point) for t in (first, second, output)]
    return Kernel("add", {"count": output.bytes, "sum": weighted_sum(*parts)})


def _concatenation(op: Concatenation, sources: list[Tensor], output: Tensor) -> Kernel:
    pieces, tables, start = [], [], 0
    for index, source in enumerate(sources):
        run = source.bytes // op.blocks
        same = (source.scale, source.zero_point) == (output.scale, output.zero_point)
        if not same:
            real = (np.arange(-128, 128) - source.zero_point) * source.scale
            moved = np.rint(real / output.scale) + output.zero_point
            table = np.clip(moved, -128, 127).astype(np.int8)
            tables.append(Constant(f"table_{index}", "int8_t", table))
        pieces.append({"run": run, "start": start, "table": None if same else f"table_{index}"})
        start += run
    arguments = {"blocks": op.blocks, "stride": start, "pieces": pieces}
    return Kernel("concatenate", arguments, tuple(tables))


def _softmax(op: Softmax, source: Tensor, output: Tensor) -> Kernel:
    bits = min(22, 31 - math.ceil(math.log2(max(op.length, 2))))
    steps = np.arange(255, -1, -1, dtype=np.float64)
    table = np.rint(np.exp(-steps * source.scale) * 2.0**bits).astype(np.uint32)
    return Kernel(
        "softmax",
        {
            "runs": source.bytes // op.length,
            "length": op.length,
            "factor": round(65536 / output.scale),
            "zero_point": output.zero_point,
        },
        (Constant("table", "uint32_t", table),),
    )
