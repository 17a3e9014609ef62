"""Fixed-point forms of the factors between integer scales."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import UnsupportedModelError


def factors(source: float, weights: NDArray[np.float64], output: float) -> NDArray[np.float64]:
    """Return source * weights / output in single precision, step by step as onnxruntime does.

    The factors of its QLinearConv and QGemm; with others, sums that lie close to the middle between
    two integers would be rounded to the other side.
    """
    products = np.float32(source) * weights.astype(np.float32)
    return (products / np.float32(output)).astype(np.float64)


def multiplier_and_shift(factor: float) -> tuple[int, int]:
    """Return (multiplier, shift) with factor = multiplier * 2^(shift - 31), as CMSIS-NN takes it.

    The multiplier lies in [2^30, 2^31). Same split as gemmlowp's (Jacob et al., arXiv 1712.05877,
    equation 6).
    """
    if factor <= 0:
        return 0, 0
    fraction, shift = math.frexp(factor)
    multiplier = round(fraction * 2**31)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (multiplier, shift) if shift >= -31 else (0, 0)


@dataclass(frozen=True)
class HighWord:
    """result = zero point + round(((sum << shift) * multiplier) / 2^32): one SMMLAR on ARM."""

    multipliers: NDArray[np.int32]
    shift: int


def high_word(values: Iterable[float], layer: str) -> HighWord:
    """Return the multipliers of factors below 2^15; only factors of 1/2 and more need a shift.

    Raises:
        UnsupportedModelError: a factor is larger than any sane scale gives.
    """
    array = np.asarray(list(values), np.float64)
    largest = float(array.max(initial=0.0))
    shift = max(0, math.frexp(largest)[1] + 1) if largest > 0 else 0
    if shift > 16:
        raise UnsupportedModelError(
            f"layer {layer!r}: the output scale is {largest:.0f} times finer than the sums",
            "calibrate with data that reach this layer",
        )
    multipliers = np.rint(array * 2.0 ** (32 - shift))
    return HighWord(np.minimum(multipliers, 2**31 - 1).astype(np.int32), shift)


@dataclass(frozen=True)
class Sum:
    """result = (a * first + b * second + constant) >> shift, rounded half up."""

    first: int
    second: int
    constant: int
    shift: int


def weighted_sum(
    first: tuple[float, int], second: tuple[float, int], output: tuple[float, int]
) -> Sum:
    """Return the sum of two tensors, each given as (scale, zero point), in the output's scale.

    The shift is the largest for which no int8 operands overflow 32 bits.
    """
    for shift in range(24, 0, -1):
        unit = 2.0**shift / output[0]
        a, b = round(first[0] * unit), round(second[0] * unit)
        constant = (output[1] << shift) - a * first[1] - b * second[1] + (1 << (shift - 1))
        if 128 * (a + b) + abs(constant) < 2**31:
            return Sum(a, b, constant, shift)
    raise UnsupportedModelError(
        f"an addition gives a scale of {output[0]:g} from {first[0]:g} and {second[0]:g}",
        "calibrate with data that reach this layer",
    )
