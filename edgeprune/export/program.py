"""A network with all that is decided about its C code."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.export.arena import Memory
from edgeprune.export.cmsis_nn import Library
from edgeprune.export.integer_operators import IntegerGraph, Operator
from edgeprune.export.kernel import Kernel

KERNELS = "edgeprune_kernels.h"  # every program has it


@dataclass(frozen=True)
class Program:
    """A graph, its memory, and for each step the operator and the kernel that computes it.

    `library` holds what the kernels need of CMSIS-NN, None where they need nothing.
    """

    graph: IntegerGraph
    memory: Memory
    steps: tuple[Operator, ...]
    kernels: tuple[Kernel, ...]
    library: Library | None

    @property
    def uses_dsp(self) -> bool:
        """Some kernel is one of edgeprune's for the DSP extension."""
        return any(kernel.macro.startswith("dsp_") for kernel in self.kernels)

    @property
    def scratch_bytes(self) -> int:
        """The largest scratch that a kernel needs."""
        return max((kernel.scratch for kernel in self.kernels), default=0)
