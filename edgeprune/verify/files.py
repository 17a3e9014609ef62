"""Two ONNX files against each other, whatever made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeprune.devices.protocol import Device
from edgeprune.errors import UnsupportedModelError
from edgeprune.records import Artifact, Parity
from edgeprune.verify.inference import BYTES_AT_ONCE, run_arrays, run_bytes

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

    Requires that both take the same inputs. Fewer than `samples` are taken where these would not
    fit 1 GiB. Passed means that the largest difference is at most `tolerance`, or that share of the
    largest output where it is above 1.

    Raises:
        UnsupportedModelError: inputs or outputs differ in number, type or shape.
    """
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
    difference = np.abs(outputs[0] - outputs[1])
    largest = float(np.abs(outputs[0]).max())
    worst = float(difference.max())
    floor = np.maximum(np.abs(outputs[0]), max(1e-2 * largest, 1e-12))
    limit = tolerance * max(1.0, largest)
    return Parity(
        max_abs=worst,
        max_rel=float((difference / floor).max()),
        samples=samples,
        passed=worst <= limit,
        limit=limit,
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
