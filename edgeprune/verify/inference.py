"""Outputs of an ONNX file over real data, computed by the runtime in the worker."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.data import Batch, batches
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.protocol import Device, Request, file_of
from edgeprune.errors import DataError, DeadlineError, UnsupportedModelError
from edgeprune.records import Artifact, DeviceSpec, TensorInfo

AT_ONCE = 2048  # samples that are waited for before a worker process starts
BYTES_AT_ONCE = 256 << 20  # of inputs and outputs, likewise, and the most that a process takes
DEADLINE = 600.0  # seconds; the worker then leaves the rest to another process
Array = NDArray[Any]
Pair = tuple[tuple[Tensor, ...], Tensor]


def numeric_device(device: Device, *, exact_integers: bool = False) -> Device:
    """Return the device that computes outputs of whole data sets.

    That is `device` itself, or this machine where it gives none, or is emulated: an emulator takes
    hundreds of times as long, and its outputs agree with this machine's (tests/devices).

    With `exact_integers`, sums of products are 32 bits wide on this machine: by default
    onnxruntime's integer kernels saturate sums of two products to 16 bits on x86 processors without
    VNNI, which no firmware does. (Operators that are not fused would add in floating point:
    their outputs differ by up to two units of int8 from the integer kernels'.)
    """
    if device.spec.computes_outputs and device.spec.figure != "emulated":
        return device
    spec = DeviceSpec(
        name=f"{device.spec.name} (numerics on this machine)",
        title="local CPU",
        kind="cpu",
        runtime="onnxruntime",
        transport="local",
        unit="us",
        figure="measured",
        session_config={"session.x64quantprecision": "1"} if exact_integers else {},
    )
    return LocalDevice(spec)


def infer(
    device: Device,
    path: Path,
    artifact: Artifact,
    part: Iterable[Batch],
    name: str,
    progress: Callable[[int], None] = lambda samples: None,
) -> Iterator[tuple[Tensor, Pair]]:
    """Yield (output of the runtime, (inputs, target)) for every batch of `part`, called `name`.

    Raises:
        DeviceError: the device fails.
        DataError: `part` is malformed.
        UnsupportedModelError: there are not as many rows of the output as samples.
    """
    waiting: list[Pair] = []
    samples, each = 0, output_bytes(artifact) / batch_of(artifact.inputs[0])
    for inputs, target in batches(part, name):
        waiting.append((inputs, target))
        count = sum(len(x[0]) for x, _ in waiting)
        taken = sum(x.numel() * x.element_size() for xs, _ in waiting for x in xs) + count * each
        if count >= AT_ONCE or taken >= BYTES_AT_ONCE:
            yield from _answers(device, path, artifact, waiting)
            samples += count
            progress(samples)
            waiting = []
    if waiting:
        yield from _answers(device, path, artifact, waiting)


def _answers(
    device: Device, path: Path, artifact: Artifact, pairs: list[Pair]
) -> Iterator[tuple[Tensor, Pair]]:
    columns = {
        info.name: torch.cat([inputs[index] for inputs, _ in pairs]).numpy()
        for index, info in enumerate(artifact.inputs)
    }
    output = torch.from_numpy(run_arrays(device, path, artifact, columns))
    samples = sum(len(inputs[0]) for inputs, _ in pairs)
    if len(output) != samples:
        raise UnsupportedModelError(
            f"{path.name} returns {len(output)} rows for {samples} samples",
            "the first axis of its output must be that of the samples",
        )
    start = 0
    for inputs, target in pairs:
        count = len(inputs[0])
        yield output[start : start + count], (inputs, target)
        start += count


def run_arrays(
    device: Device, path: Path, artifact: Artifact, columns: Mapping[str, Array]
) -> Array:
    """Return the first output of the model at `path` for `columns`: input name -> [samples, ...].

    Each process takes as many samples as fit 256 MiB of inputs and outputs, and 600 s. Each run
    takes of every input as many rows as its own first axis has, and of a scalar one entry.

    Raises:
        DeviceError: the device fails.
        DeadlineError: it does not even get one run done in time.
        DataError: the columns are not for the same number of runs.
    """
    sizes = {info.name: batch_of(info) for info in artifact.inputs}
    counts = {name: -(-len(columns[name]) // size) for name, size in sizes.items()}
    runs = max(counts.values())
    if min(counts.values()) < runs:
        told = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(
            f"the inputs of {path.name} hold samples for different numbers of runs ({told})",
            "give every input a row for every sample",
        )
    at_once = max(1, BYTES_AT_ONCE // run_bytes(artifact))
    parts, done = list[Array](), 0
    while done < runs:
        part = {
            name: columns[name][done * size : (done + at_once) * size]
            for name, size in sizes.items()
        }
        output, made = _run(device, path, part)
        parts.append(output)
        if made is not None:
            at_once = made  # what is slow is not sent over and over again
        done += at_once
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _run(device: Device, path: Path, columns: Mapping[str, Array]) -> tuple[Array, int | None]:
    """Return the first output, and where time ran out the runs made of the model's batch."""
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        asked, answered = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npy")
        np.savez(asked, **columns)  # type: ignore[arg-type]
        answer = device.ask(
            Request(
                task="run",
                models=(file_of("model", path),),
                inputs=str(asked),
                outputs=str(answered),
                deadline_seconds=DEADLINE,
            )
        )
        output: Array = np.load(answered, allow_pickle=False)
    if answer.stopped == "fixed":
        return output, None
    made = answer.models[0].made
    if not made:
        raise DeadlineError(
            f"device {device.spec.name}: no run of {path.name} within {DEADLINE:.0f} s"
        )
    return output, made


def batch_of(info: TensorInfo) -> int:
    """Return how many samples of an input one run takes."""
    return max(1, info.shape[0]) if info.shape else 1


def output_bytes(artifact: Artifact) -> int:
    """Return the size of the first output of one run."""
    return _bytes(artifact.outputs[0])


def run_bytes(artifact: Artifact) -> int:
    """Return the size of the inputs and of the first output of one run; at least 1."""
    return max(1, sum(_bytes(info) for info in artifact.inputs) + output_bytes(artifact))


def _bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * np.dtype(info.dtype).itemsize
