"""Which layer an instruction belongs to: the table of counter.h, and the counts that come back."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeprune.devices.microcontroller.build import Firmware
from edgeprune.errors import DeviceError

OUTSIDE, INFER, FIRST_LAYER = 1, 2, 3  # counter.h


class Counts(NamedTuple):
    """Exact instructions of one inference.

    `layers` are inclusive of the kernels that a layer calls, in the order of the layers; `infer`
    is the body of the inference function, without its layers.
    """

    infer: int
    layers: tuple[int, ...]

    @property
    def total(self) -> int:
        """All instructions between the call of the inference function and its return."""
        return self.infer + sum(self.layers)


def write_table(firmware: Firmware, path: Path) -> None:
    """Write the class of every halfword of the model's code to `path`."""
    image, sources = firmware.image, firmware.sources
    base, size = image.sections[".text"]
    owner = np.zeros((size + 1) // 2, np.uint16)
    classes = {layer.symbol: FIRST_LAYER + i for i, layer in enumerate(sources.layers)}
    classes |= {sources.infer: INFER, **dict.fromkeys(sources.helpers, OUTSIDE)}
    for name, function in image.functions.items():
        # A compiler may specialise or split a function: name.constprop.0, name.part.0.
        kind = classes.get(name.partition(".")[0])
        if kind is not None and base <= function.address < base + size:
            first = (function.address - base) // 2
            owner[first : first + (function.bytes + 1) // 2] = kind
    head = struct.pack("<3I", base, len(owner), FIRST_LAYER + len(sources.layers))
    path.write_bytes(head + owner.astype("<u2").tobytes())


def read_counts(firmware: Firmware, path: Path) -> Counts:
    """Return the counts that an emulator left in `path`.

    Raises:
        DeviceError: it left none.
    """
    try:
        values = [int(line) for line in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise DeviceError(f"the emulator left no counts: {error}") from None
    layers = values[FIRST_LAYER:]
    if len(layers) != len(firmware.sources.layers):
        raise DeviceError(
            f"the emulator counted {len(layers)} layers of {len(firmware.sources.layers)}"
        )
    return Counts(values[INFER], tuple(layers))
