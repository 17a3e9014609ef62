"""Outputs of an ONNX file over real data, computed by the runtime in the worker."""

from __future__ import annotations

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
from edgeprune.records import Artifact, DeviceSpec

AT_ONCE = 2048  # samples a worker process takes
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
    """
    waiting: list[Pair] = []
    samples = 0
    for inputs, target in batches(part, name):
        waiting.append((inputs, target))
        if sum(len(x[0]) for x, _ in waiting) >= AT_ONCE:
            yield from _answers(device, path, artifact, waiting)
            samples += sum(len(x[0]) for x, _ in waiting)
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
    output = torch.from_numpy(run_arrays(device, path, columns))
    start = 0
    for inputs, target in pairs:
        count = len(inputs[0])
        yield output[start : start + count], (inputs, target)
        start += count


def run_arrays(device: Device, path: Path, columns: Mapping[str, Array]) -> Array:
    """Return the first output of the model at `path` for `columns`: input name -> [samples, ...].

    Raises:
        DeviceError: the device fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        asked, answered = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npy")
        np.savez(asked, **columns)  # type: ignore[arg-type]
        device.ask(
            Request(
                task="run",
                models=(file_of("model", path),),
                inputs=str(asked),
                outputs=str(answered),
                deadline_seconds=600.0,
            )
        )
        output: Array = np.load(answered, allow_pickle=False)
        return output
