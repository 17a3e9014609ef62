"""Checks that counts belong to the nodes they were given to, by the arithmetic of convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from edgeprune.devices.arm64.snapshots import HINT, Counts
from edgeprune.devices.protocol import ModelAnswer
from edgeprune.errors import DeviceError
from edgeprune.export.segments import Segment, read_graph

OPERATORS = frozenset({"Conv", "FusedConv"})
TOLERANCE = 0.01
TILE = 8  # columns of a matrix product that MLAS computes together on ARM64, the last ones padded
BLOCK = 128  # rows that it sums up before it adds them to the result
CURVES = frozenset({"Sigmoid", "Tanh", "Elu", "Gelu"})  # activations computed by polynomials
POLYNOMIAL = 16  # multiply-accumulates an element, at most


class Bounds(NamedTuple):
    """The fewest and the most multiply-accumulates that a convolution can be computed with."""

    low: float
    high: float

    def hold(self, executed: float) -> bool:
        """Whether `executed` lies between them, within the tolerance."""
        return (1 - TOLERANCE) * self.low <= executed <= (1 + TOLERANCE) * self.high


def check_convolutions(
    file: Path, model: ModelAnswer, counted: Sequence[Sequence[Counts]]
) -> list[float]:
    """Return for each convolution in single precision 4 FMLA + FMADD over its MACs, run by run.

    `counted` holds the counts of every node of `model` and every run. Nodes that the runtime
    reports under a name that the file does not know are checked together.

    Raises:
        DeviceError: a node executed fewer or more multiply-accumulates than its convolution takes.
    """
    convolutions = {
        alias: segment
        for segment in read_graph(file).segments
        if segment.operator == "Conv" and _single_precision(segment)
        for alias in (segment.nodes[0].name, *segment.aliases)
        if alias
    }
    ratios: list[float] = []
    seen: set[str] = set()
    strangers: list[int] = []
    for node, runs in zip(model.nodes, counted, strict=True):
        if node.operator not in OPERATORS:
            continue
        segment = convolutions.get(node.name)
        for counts in runs:
            if segment is None:
                strangers.append(counts.float_macs)
            else:
                _check(node.name, counts.float_macs, bounds(segment))
                ratios.append(counts.float_macs / segment.macs)
                seen.add(segment.name)
    if strangers:
        runs_made = len(counted[0])
        rest = {s.name: s for s in convolutions.values() if s.name not in seen}
        limits = [bounds(segment) for segment in rest.values()]
        together = Bounds(sum(b.low for b in limits), sum(b.high for b in limits))
        if limits:
            _check("convolutions without a name", sum(strangers) / runs_made, together)
            ratios.append(sum(strangers) / runs_made / sum(s.macs for s in rest.values()))
    return ratios


def bounds(segment: Segment) -> Bounds:
    """Return the bounds of a convolution, which starts the layer `segment`.

    A kernel may leave out what lies in the padding; that gives the lower bound. The upper one is
    that of a matrix product [outputs, K] x [K, pixels] whose pixels are rounded up to `TILE`, and
    whose result is added to once for every `BLOCK` of K; a fused activation may come on top. Both
    were read off counts and held for 1,000 random shapes (docs/measuring.md).
    """
    node = segment.nodes[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    weight = segment.weights[node.input[1]]
    kernel, image = weight[2:], segment.input_shape[2:]
    pixels = segment.output_shape[2:]
    inside = math.prod(
        _taps_inside(axis, kernel, image, pixels, attributes) / (pixels[axis] * kernel[axis])
        for axis in range(len(kernel))
    )
    columns, depth = math.prod(pixels), math.prod(weight[1:])
    tiled = -(-columns // TILE) * TILE
    if weight[0] == attributes.get("group", 1):  # one output: four columns, then two, then one
        tiled = max(tiled, 4 * (columns // 4 + (columns % 4).bit_count()))
    padded = tiled / columns
    updates = 1 + -(-depth // BLOCK) / depth
    curves = sum(other.op_type in CURVES for other in segment.nodes[1:])
    most = segment.macs * padded * (updates + curves * POLYNOMIAL / depth)
    return Bounds(segment.macs * inside, most)


def _taps_inside(
    axis: int,
    kernel: Sequence[int],
    image: Sequence[int],
    pixels: Sequence[int],
    attributes: dict[str, Any],
) -> int:
    """Return how many products along one axis read the image and not its padding."""
    stride = attributes.get("strides", [1] * len(kernel))[axis]
    dilation = attributes.get("dilations", [1] * len(kernel))[axis]
    before = attributes.get("pads", [0] * 2 * len(kernel))[axis]
    if (automatic := attributes.get("auto_pad", b"NOTSET")).startswith(b"SAME"):
        reach = (pixels[axis] - 1) * stride + dilation * (kernel[axis] - 1) + 1
        missing = max(reach - image[axis], 0)
        before = missing // 2 if automatic == b"SAME_UPPER" else missing - missing // 2
    return sum(
        0 <= pixel * stride - before + tap * dilation < image[axis]
        for pixel in range(pixels[axis])
        for tap in range(kernel[axis])
    )


def _single_precision(segment: Segment) -> bool:
    return segment.macs > 0 and segment.parameter_bytes == 4 * segment.parameters


def _check(name: str, executed: float, allowed: Bounds) -> None:
    if not allowed.hold(executed):
        raise DeviceError(
            f"{name}: {executed:,.0f} multiply-accumulates were executed, "
            f"{allowed.low:,.0f} to {allowed.high:,.0f} are possible: "
            "the counts do not belong to the nodes",
            HINT,
        )
