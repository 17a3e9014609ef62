"""What a model takes of a microcontroller's memory."""

from __future__ import annotations

from typing import Literal

from edgeprune.records.base import Record


class Footprint(Record):
    """Memory of a model's firmware in bytes, without the harness that runs it in the emulator.

    Flash holds code, constants and the initial values of variables. RAM is static memory (arena,
    scratch and state of the generated code) and the deepest stack of an inference, found by
    painting. `scratch_used_bytes` is how much of the scratch an inference wrote. Buffers of the
    caller for input and output (`io_bytes`) are part of neither; they are 0 where the arena holds
    them.
    """

    kind: Literal["emulated"] = "emulated"
    flash_bytes: int
    ram_bytes: int
    code_bytes: int
    constant_bytes: int
    variable_bytes: int
    static_bytes: int
    stack_bytes: int
    arena_bytes: int
    scratch_bytes: int
    scratch_used_bytes: int
    io_bytes: int
