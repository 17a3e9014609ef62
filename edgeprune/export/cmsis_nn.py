"""CMSIS-NN: where its sources are, which of them a network needs, how much scratch they use."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import DeviceError
from edgeprune.export.integer_operators import Convolution, Tensor
from edgeprune.records import Target

EXTRA = "pip install 'edgeprune[microcontroller]'"  # in the versions that edgeprune takes
INSTALL = f"{EXTRA}, or name a CMSIS-NN tree in the profile"
HEADERS = (
    "arm_nn_math_types.h",
    "arm_nn_types.h",
    "arm_nnfunctions.h",
    "arm_nnsupportfunctions.h",
)
CORE_HEADER = "cmsis_compiler.h"
MVE_CHANNELS = 124  # CH_IN_BLOCK_MVE of arm_nnsupportfunctions.h
CALL = re.compile(r"\b(arm_\w+)\s*\(")


@dataclass(frozen=True)
class Library:
    """Files to copy: (source, path below the generated folder)."""

    sources: tuple[tuple[Path, str], ...]
    headers: tuple[tuple[Path, str], ...]
    licences: tuple[tuple[Path, str], ...]
    include_dirs: tuple[str, ...]


def find(cmsis: Path | None) -> Path:
    """Return the CMSIS-NN tree (with Include and Source): `cmsis`, or the copy in bakenn.

    Raises:
        DeviceError: there is none, or it is another version than 4.0.
    """
    root = cmsis
    if root is None:
        vendored = _vendored()
        if vendored is None:
            raise DeviceError("CMSIS-NN is not installed", INSTALL)
        root = vendored / "cmsis_nn"
    header = root / "Include" / "arm_nnfunctions.h"
    if not header.is_file() or not (root / "Source").is_dir():
        raise DeviceError(f"{root} is not a CMSIS-NN tree: no {header.name} or no Source", INSTALL)
    if "upscale_dims" in header.read_text(encoding="utf-8", errors="replace"):
        raise DeviceError(
            f"{root} is a newer CMSIS-NN, whose functions take other arguments",
            "use version 4.0, such as the copy in the package bakenn",
        )
    return root


def select(root: Path, functions: Iterable[str]) -> Library:
    """Return the part of the tree that `functions` need, callees included.

    Raises:
        DeviceError: the tree lacks a function.
    """
    files = {path.stem: path for path in sorted((root / "Source").rglob("*.c"))}
    waiting, needed = sorted(set(functions)), set[str]()
    for name in waiting:
        if name not in files:
            raise DeviceError(f"{root} has no {name}.c", INSTALL)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        text = files[name].read_text(encoding="utf-8", errors="replace")
        waiting += [f for f in set(CALL.findall(text)) if f in files and f not in needed]
    sources = [
        (files[name], f"cmsis_nn/{files[name].relative_to(root)}") for name in sorted(needed)
    ]
    headers = [(root / "Include" / name, f"cmsis_nn/Include/{name}") for name in HEADERS]
    licences = [(path, f"cmsis_nn/{path.name}") for path in sorted(root.glob("LICENSE*"))]
    core = _core(root)
    headers += [
        (path, f"cmsis_core/Include/{path.name}")
        for path in sorted((core / "Include").glob("cmsis_*.h"))
    ]
    licences += [(path, f"cmsis_core/{path.name}") for path in sorted(core.glob("LICENSE*"))]
    include_dirs = ("cmsis_nn/Include", "cmsis_core/Include")
    return Library(tuple(sources), tuple(headers), tuple(licences), include_dirs)


def _core(root: Path) -> Path:
    """Return the CMSIS-Core that CMSIS-NN includes: beside the tree, or the copy in bakenn.

    Raises:
        DeviceError: there is none.
    """
    places = [root.parent / name for name in ("cmsis_core", "Core", "CMSIS/Core")]
    vendored = _vendored()
    if vendored is not None:
        places.append(vendored / "cmsis_core")
    for place in places:
        if (place / "Include" / CORE_HEADER).is_file():
            return place
    raise DeviceError(
        f"CMSIS-NN in {root} needs CMSIS-Core: there is no {CORE_HEADER} in Core/Include beside it",
        f"put CMSIS-Core of CMSIS 5 there, or {EXTRA}",
    )


def _vendored() -> Path | None:
    """Return the folder of bakenn that holds copies of CMSIS-NN and CMSIS-Core."""
    found = importlib.util.find_spec("bakenn")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0], "backend/cmsis_nn/vendor")


def convolution_scratch(op: Convolution, source: Tensor, output: Tensor, target: Target) -> int:
    """Return the bytes that arm_convolve_wrapper_s8 needs (its _get_buffer_size, version 4.0)."""
    height, _, channels = source.image
    kernel_height, kernel_width = int(op.weights.shape[2]), int(op.weights.shape[3])
    plain = op.pads[:2] == (0, 0) and op.dilations == (1, 1)
    if plain and (kernel_height, kernel_width) == (1, 1):
        return 0
    row = height == 1 and kernel_height == 1 and op.dilations[1] == 1
    columns = channels * kernel_height * kernel_width
    if target == "mve":
        if row and output.image[1] % 4 == 0:
            return 0
        return 4 * 8 * -(-columns // 8)
    return 2 * columns * 2


def depthwise_scratch(op: Convolution, source: Tensor, target: Target) -> int:
    """Return the bytes that arm_depthwise_conv_wrapper_s8 uses (version 4.0).

    Less than its _get_buffer_size where the kernel chosen at run time, the one for 3 x 3, needs
    none.
    """
    channels = source.image[2]
    kernel = int(op.weights.shape[2]) * int(op.weights.shape[3])
    if op.weights.shape[0] != channels or op.dilations != (1, 1) or target == "scalar":
        return 0
    if target == "mve":
        return 4 * MVE_CHANNELS * kernel
    small = op.weights.shape[2:] == (3, 3) and max(op.pads[:2]) <= 1
    return 0 if small else 2 * channels * kernel
