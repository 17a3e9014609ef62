"""Firmware against the runtime on real inputs, and the memory that firmware takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeprune.data import Data, first_batches
from edgeprune.devices.protocol import Device, Request, file_of
from edgeprune.errors import DeviceError
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.records import Artifact, FirmwareParity, Footprint
from edgeprune.verify.inference import run_arrays

SAMPLES = 256
UNITS = 1.0  # of the last place of int8
AGREEMENT = 0.995  # share of samples with the same largest output


def firmware_parity(
    device: Device, numeric: Device, path: Path, artifact: Artifact, data: Data
) -> FirmwareParity:
    """Compare the outputs of the int8 file `path`: firmware on `device`, runtime on `numeric`.

    The same real inputs go to both, 256 of the evaluation data or all there are; the firmware runs
    over them twice. Passed means that no output differs by more than one unit of the last place of
    int8, the largest output is the same one in 99.5 % of the samples, and both runs of the firmware
    give the same bytes.

    Raises:
        DeviceError: the device fails.
    """
    part, name = data.evaluation
    taken = [inputs[0].numpy() for inputs, _ in first_batches(part, SAMPLES, name)]
    columns = {artifact.inputs[0].name: np.concatenate(taken)[:SAMPLES]}
    graph = read_integer_graph(path)
    scale = graph.tensors[graph.output].scale
    first, again = (run_arrays(device, path, artifact, columns) for _ in range(2))
    found = agreement(first, run_arrays(numeric, path, artifact, columns), scale)
    repeats = first.tobytes() == again.tobytes()
    return found.model_copy(update={"repeats": repeats, "passed": found.passed and repeats})


def agreement(
    firmware: NDArray[np.float32], runtime: NDArray[np.float32], scale: float
) -> FirmwareParity:
    """Compare outputs [samples, ...] whose last place is `scale`.

    Raises:
        DeviceError: the two differ in shape.
    """
    if firmware.shape != runtime.shape:
        raise DeviceError(
            f"the firmware returns {firmware.shape}, the runtime returns {runtime.shape}"
        )
    units = np.rint(np.abs(firmware.astype(np.float64) - runtime) / scale)
    rows = [array.reshape(len(array), -1).argmax(1) for array in (firmware, runtime)]
    worst, agreed = float(units.max()), float((rows[0] == rows[1]).mean())
    return FirmwareParity(
        max_units=worst,
        limit=UNITS,
        top1_agreement=agreed,
        samples=len(firmware),
        passed=worst <= UNITS and agreed >= AGREEMENT,
    )


def footprints(device: Device, files: tuple[Path, ...], seed: int = 0) -> tuple[Footprint, ...]:
    """Return what the firmware of each of `files` takes of the device's memory.

    Raises:
        DeviceError: the device fails or does not say.
    """
    models = tuple(file_of(file.name, file) for file in files)
    answer = device.ask(Request(task="time", models=models, seed=seed))
    found = tuple(model.footprint for model in answer.models if model.footprint is not None)
    if len(found) != len(files):
        raise DeviceError(f"device {device.spec.name} does not say what memory a model takes")
    return found
