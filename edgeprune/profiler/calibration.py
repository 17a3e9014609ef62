"""What the device itself can do, and what its profiler costs: short probes of known work."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from edgeprune.devices.protocol import Device, ModelAnswer, Request, file_of
from edgeprune.errors import DeviceError
from edgeprune.export.synthetic import write_chain, write_convolutions, write_product
from edgeprune.profiler.stats import floor_of
from edgeprune.records import Bandwidth, Peaks

SHORT, LONG = 8, 64  # nodes next to nothing to do
COUNTED = 8, 32  # convolutions next to nothing to do, where instructions are counted
SIZE = 512  # of the square matrices
CONVOLUTIONS, CHANNELS, PIXELS = 4, 64, 28  # 3 x 3
COPIES = {128 * 2**10: 8, 2 * 2**20: 4, 32 * 2**20: 2}  # bytes of a tensor -> copies in a row
FLOAT_BYTES = 4


class Calibration(NamedTuple):
    """What is known of a device, in microseconds and per second.

    `overhead` is what the profiler adds to a node, `empty` a node without work, and `call` a run
    without nodes: the way into the runtime and out again.
    """

    overhead: float
    empty: float
    call: float
    peaks: Peaks


class Counted(NamedTuple):
    """What an exact runtime does beside computing: `overhead` of the profiler a node, `call`."""

    overhead: float = 0.0
    call: float = 0.0


def calibrate_counts(device: Device, *, seed: int = 0) -> Counted:
    """Count what the profiler adds to a node, and a run without nodes, of an exact runtime.

    Chains of 8 and 32 convolutions of one channel with a bias, as most layers are: the profiler
    writes down the shape of each operand. Each chain runs with the profiler and without it, in
    processes of their own. Firmware and formulas have neither: 0.
    """
    if device.spec.runtime != "onnxruntime":
        return Counted()
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        files = [
            write_convolutions(Path(scratch, f"{count}.onnx"), count, channels=1, size=1, bias=True)
            for count in COUNTED
        ]
        models = tuple(file_of(file.stem, file) for file in files)
        seen, plain = (
            device.ask(Request(task=task, models=models, seed=seed)).models
            for task in ("layers", "time")
        )
    short, long = (model.values[0] for model in plain)
    node = (long - short) / (COUNTED[1] - COUNTED[0])
    found = sum(n.values[0] for n in seen[1].nodes) / len(seen[1].nodes)
    return Counted(max(0.0, round(found - node)), max(0.0, round(short - COUNTED[0] * node)))


def calibrate(device: Device, *, seed: int = 0) -> Calibration:
    """Measure the device's profiler and its peaks in one short process.

    A chain of 8 and one of 64 nodes with next to no work tell by their difference what a node costs
    without the profiler; what the profiler says of these nodes beyond that, it added itself. The
    peaks are the best of a few runs: a matrix product or a 3 x 3 convolution, and copies of three
    sizes, which stay in different caches or in none (Ilic, Pratas and Sousa 2014, IEEE CAL 13(1)).

    Raises:
        DeviceError: the device does not answer, or its answer makes no sense.
    """
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        folder = Path(scratch)
        files = [
            write_chain(folder / "short.onnx", "Sin", SHORT, (1, 16)),
            write_chain(folder / "long.onnx", "Sin", LONG, (1, 16)),
            write_product(folder / "product.onnx", SIZE),
            write_convolutions(
                folder / "convolutions.onnx", CONVOLUTIONS, channels=CHANNELS, size=PIXELS
            ),
        ]
        for size, count in COPIES.items():
            shape = (size // FLOAT_BYTES,)
            files.append(write_chain(folder / f"copy{size}.onnx", "Neg", count, shape))
        request = Request(
            task="layers",
            models=tuple(file_of(file.stem, file) for file in files),
            rounds=12,
            unprofiled=True,
            warmup_runs=2,
            warmup_seconds=0.05,
            deadline_seconds=0.7,
            seed=seed,
        )
        short, long, product, convolutions, *copies = device.ask(request).models
    empty = (floor_of(long.values) - floor_of(short.values)) / (LONG - SHORT)
    seen = floor_of(np.sum([node.values for node in long.nodes], axis=0).tolist())
    overhead = max(0.0, seen / LONG - empty)
    flops = max(
        2 * SIZE**3 / _fastest(product, "MatMul", 1, overhead, device),
        2
        * 9
        * (CHANNELS * PIXELS) ** 2
        / _fastest(convolutions, "Conv", CONVOLUTIONS, overhead, device),
    )
    bandwidths = tuple(
        Bandwidth(
            working_set_bytes=2 * size,
            bytes_per_second=1e6 * 2 * size / _fastest(copy, "Neg", count, overhead, device),
        )
        for (size, count), copy in zip(COPIES.items(), copies, strict=True)
    )
    peaks = Peaks(flops_per_second=1e6 * flops, bandwidths=bandwidths)
    call = max(0.0, floor_of(short.values) - SHORT * empty)
    return Calibration(overhead, max(0.0, empty), call, peaks)


def _fastest(
    answer: ModelAnswer, operator: str, count: int, overhead: float, device: Device
) -> float:
    """Return the time of the fastest `operator` of a probe in microseconds.

    Where a provider compiled the probe into one node, that is the time of each of the `count`
    operators in it.
    """
    nodes = [node for node in answer.nodes if node.values]
    found = [floor_of(node.values) - overhead for node in nodes if node.operator == operator]
    found += [(floor_of(node.values) - overhead) / count for node in nodes if node.compiled]
    if not found or min(found) <= 0:
        raise DeviceError(
            f"device {device.spec.name}: probe {answer.name} took no time", "run it again"
        )
    return min(found)


def limit(peaks: Peaks, macs: int, moved: int) -> tuple[float, Literal["compute", "memory"]]:
    """Return the least time in microseconds that the peaks allow, and which of them sets it.

    The roofline (Williams, Waterman and Patterson 2009, CACM 52(4)); the bandwidth is that of the
    smallest probed working set that holds the layer's tensors.
    """
    fitting = [b for b in peaks.bandwidths if b.working_set_bytes >= moved]
    bandwidth = (fitting or list(peaks.bandwidths[-1:]))[0].bytes_per_second
    compute, memory = 1e6 * 2 * macs / peaks.flops_per_second, 1e6 * moved / bandwidth
    return (compute, "compute") if compute > memory else (memory, "memory")
