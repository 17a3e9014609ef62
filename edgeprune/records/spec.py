"""What a device is: the contents of profiles/<name>.toml, one section for each transport."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgeprune.records.base import Kind, Record, Unit
from edgeprune.records.firmware import Target


class Simulation(Record):
    """The known cost staircase of a simulated device.

    A convolution or matrix product costs `overhead + macs_rounded_up / rate`, where both of its
    widths are rounded up to a multiple of `step`; an output width above `step` that is not such a
    multiple costs `cliff` times that. `noise` is the relative standard deviation of seeded noise.
    """

    step: int = Field(default=8, ge=1)
    macs_per_us: float = Field(default=20_000.0, gt=0)
    overhead_us: float = Field(default=2.0, ge=0)
    cliff: float = Field(default=1.0, ge=1)
    noise: float = Field(default=0.0, ge=0, lt=0.5)
    seed: int = 0


class Microcontroller(Record):
    """A core, how firmware for it is built, what emulates it, and the memory of the board.

    `target` names the kernels that the core's instruction set allows. `compiler` "any" is zig where
    it is installed and gcc elsewhere; the environment of every figure says which. `machine` is the
    machine of qemu-system-arm with this core: the emulator itself, or the cross-check of unicorn.
    `flash_kb` and `ram_kb` are limits in KiB (None: none known). `cycles_per_instruction` is an
    unvalidated indication and enters no figure. `cmsis` is a CMSIS-NN tree (None: bakenn's copy).
    """

    cpu: Literal["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"]
    fpu: Literal["single", "double"] = "single"
    target: Target = "dsp"
    emulator: Literal["unicorn", "qemu"] = "unicorn"
    machine: Literal["mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547"]
    compiler: Literal["any", "zig", "gcc"] = "any"
    optimization: Literal["O1", "O2", "O3", "Os"] = "O3"
    flash_kb: int | None = Field(default=None, ge=1)
    ram_kb: int | None = Field(default=None, ge=1)
    cycles_per_instruction: float | None = Field(default=None, gt=0)
    cmsis: str | None = None


class DeviceSpec(Record):
    """A device as its profile file describes it.

    `kind` is the kind of device, `figure` the kind of figure it yields, `unit` that figure's unit.
    `affinity` pins the worker to these processors (None: the system decides).
    """

    name: str
    title: str
    kind: Literal["cpu", "gpu", "microcontroller"]
    runtime: Literal["onnxruntime", "simulated", "firmware"]
    transport: Literal["local", "simulated", "emulator"]
    unit: Unit
    figure: Kind
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = Field(default=1, ge=1)
    affinity: tuple[int, ...] | None = None
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    simulation: Simulation | None = None
    microcontroller: Microcontroller | None = None
    source: dict[str, str] = Field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether asking twice gives the same figures, so that once is enough."""
        return self.figure == "emulated"
