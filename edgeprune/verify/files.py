"""Two ONNX files against each other, whatever made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeprune.devices.protocol import Device
from edgeprune.errors import UnsupportedModelError
from edgeprune.records import Artifact, Parity
from edgeprune.verify.inference import BYTES_AT_ONCE, Array, run_arrays, run_bytes

ODD = "outputs hold NaN or infinity: random inputs may lie outside of what the model takes"
HELD = 4 * BYTES_AT_ONCE  # of inputs and outputs of a file, which are compared as a whole


def file_parity(
    device: Device,
    before: tuple[Path, Artifact],
    after: tuple[Path, Artifact],
    *,
    tolerance: float = 1e-4,
    samples: int = 64,
    seed: int = 0,
) -> Parity:
    """Compare the outputs of two files on the same seeded random inputs.

    Requires that both take the same inputs: of the same names in any order, or in the same order
    where names differ. Fewer than `samples` are taken where these would not
    fit 1 GiB. Passed means that the largest difference is at most `tolerance`, or that share of the
    largest output where it is above 1. NaN is equal to NaN and an infinity to itself; where only
    one file gives them, it has not passed and the difference is told as 1e308.

    Raises:
        UnsupportedModelError: inputs or outputs differ in number, type or shape.
    """
    after = after[0], _in_order(after[1], before[1])
    kinds = [[(i.dtype, i.shape) for i in artifact.inputs] for _, artifact in (before, after)]
    if kinds[0] != kinds[1]:
        raise UnsupportedModelError(
            f"{before[0]} takes {kinds[0]}, {after[0]} takes {kinds[1]}: they cannot be compared"
        )
    counts = [len(artifact.outputs) for _, artifact in (before, after)]
    if counts != [1, 1]:
        raise UnsupportedModelError(
            f"{before[0]} has {counts[0]} outputs, {after[0]} has {counts[1]}: "
            "files with one output each can be compared"
        )
    samples = min(samples, max(1, HELD // max(run_bytes(a) for _, a in (before, after))))
    outputs = [_run(device, path, artifact, samples, seed) for path, artifact in (before, after)]
    if outputs[0].shape != outputs[1].shape:
        raise UnsupportedModelError(
            f"{before[0]} returns {outputs[0].shape}, {after[0]} returns {outputs[1].shape}"
        )
    return _compared(outputs[0], outputs[1], tolerance, samples)


def _in_order(artifact: Artifact, other: Artifact) -> Artifact:
    """Return `artifact` with its inputs in the order of the other's, if they are called alike."""
    named = {info.name: info for info in artifact.inputs}
    names = [info.name for info in other.inputs]
    if named.keys() != set(names):
        return artifact
    return artifact.model_copy(update={"inputs": tuple(named[name] for name in names)})


def _compared(before: Array, after: Array, tolerance: float, samples: int) -> Parity:
    finite = np.isfinite(before) & np.isfinite(after)
    odd = before.size - int(finite.sum())
    note = f"{ODD} ({odd:,} of {before.size:,})" if odd else ""
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True):
        return Parity(
            max_abs=1e308, max_rel=1e308, samples=samples, passed=False, limit=tolerance,
            note=f"{note}, and not alike",
        )  # fmt: skip
    wanted, difference = np.abs(before[finite]), np.abs(before[finite] - after[finite])
    largest, worst = (float(values.max(initial=0.0)) for values in (wanted, difference))
    floor = np.maximum(wanted, max(1e-2 * largest, 1e-12))
    limit = tolerance * max(1.0, largest)
    return Parity(
        max_abs=worst,
        max_rel=float((difference / floor).max(initial=0.0)),
        samples=samples,
        passed=worst <= limit,
        limit=limit,
        note=note,
    )


def _run(device: Device, path: Path, artifact: Artifact, samples: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    columns = {}
    for info in artifact.inputs:
        shape = (samples * max(1, info.shape[0]), *info.shape[1:]) if info.shape else (samples,)
        kind = np.dtype(info.dtype)
        values = random.standard_normal(shape)
        columns[info.name] = (
            values.astype(kind) if kind.kind == "f" else random.integers(0, 2, shape).astype(kind)
        )
    return run_arrays(device, path, artifact, columns).astype(np.float64)
