"""C code for a microcontroller from an int8 ONNX model."""

from __future__ import annotations

from pathlib import Path

from edgeprune.errors import UnsupportedModelError
from edgeprune.records import CSource, Target


def generate(
    model: Path, folder: Path, *, name: str, target: Target, cmsis: Path | None = None
) -> CSource:
    """Write the C code of the int8 QDQ `model` into `folder` (replaced whole).

    `name` prefixes every symbol. `target` says which kernels the compiler will choose: "scalar"
    (Cortex-M0, M3, hosts), "dsp" (M4, M7, M33 with DSP) or "mve" (M55); the scratch is sized for
    it, and the code refuses to compile for another. `cmsis` is a CMSIS-NN tree (with Include and
    Source); None takes the copy of the package bakenn.

    Raises:
        UnsupportedModelError: an operator has no integer kernel; names the layer and a way out.
        DeviceError: no CMSIS-NN is to be found.
        OutputError: the folder cannot be written.
    """
    raise UnsupportedModelError("generation of C code is not finished")
