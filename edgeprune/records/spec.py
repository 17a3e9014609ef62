"""What a device is: the contents of profiles/<name>.toml, one section for each transport."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgeprune.records.base import Kind, Record, Unit
from edgeprune.records.firmware import Target

Word = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]  # one line without control characters
Address = Annotated[
    str, Field(pattern=r"^[^-\s\x00-\x1f\x7f][^\s\x00-\x1f\x7f]*$")
]  # no option either


class Remote(Record):
    """What every remote device has: its Python, and the folder that may hold our scratch folder.

    `folder` None is the device's own temporary folder, `environment` is added to the worker's
    environment. `board` must occur in the name that the device gives itself, so that no other board
    is measured under this profile's name. `grace_seconds` are allowed beyond the deadline of a
    request, for the start of the worker, opening of sessions and warm-up.
    """

    python: Word = "python3"
    folder: Word | None = None
    environment: dict[Word, Word] = Field(default_factory=dict)
    board: Word | None = None
    grace_seconds: float = Field(default=120.0, gt=0)


class Ssh(Remote):
    """A host reached by the user's own ssh; `config` replaces the user's configuration file."""

    host: Address | None = None
    config: Word | None = None
    connect_timeout_seconds: float = Field(default=10.0, ge=1)


class Adb(Remote):
    """An Android device reached by adb: the worker under Termux, or a pushed perf_test binary.

    `package` is the app whose Python is used (termux), `binary` the onnxruntime_perf_test on this
    machine, with its libraries beside it (perf_test).
    """

    serial: Address | None = None
    mode: Literal["termux", "perf_test"] = "termux"
    package: Address = "com.termux"
    binary: Word | None = None
    python: Word = "/data/data/com.termux/files/usr/bin/python"


class Simulation(Record):
    """The known cost staircase of a simulated device.

    A convolution or matrix product costs `overhead + macs_rounded_up / rate`, where both of its
    widths are rounded up to a multiple of `step`; an output width above `step` that is not such a
    multiple costs `cliff` times that. `noise` is the relative standard deviation of seeded noise.

    `process_noise` is the standard deviation of the logarithm of a factor that each process draws
    for each model. The whole device falls from full speed to `1 / regime` of it and back, each
    time after `regime_runs` runs on average, and gets slower by `drift` a second.
    """

    step: int = Field(default=8, ge=1, le=4096)
    macs_per_us: float = Field(default=20_000.0, ge=1e-3, le=1e12)
    overhead_us: float = Field(default=2.0, ge=0, le=1e9)
    cliff: float = Field(default=1.0, ge=1, le=1000)
    noise: float = Field(default=0.0, ge=0, lt=0.5)
    process_noise: float = Field(default=0.0, ge=0, lt=0.5)
    regime: float = Field(default=1.0, ge=1)
    regime_runs: float = Field(default=1000.0, ge=1)
    drift: float = Field(default=0.0, ge=0)
    seed: int = Field(default=0, ge=0)


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


class Arm64(Record):
    """The processor that QEMU emulates."""

    cpu: Literal["cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1"]


class Roofline(Record):
    """What the roofline estimate of a device needs; devices/roofline.py holds the formula.

    `peak_gflops` is in 10^9 float32 operations per second (a multiply-accumulate is two),
    `bandwidth_gbs` in 10^9 bytes per second, `overhead_us` the cost of starting one layer. Channels
    are padded to a multiple of `tile`. The efficiencies are the shares of both peaks that real
    kernels reach. `of` names the device that the numbers describe.
    """

    of: str
    peak_gflops: float = Field(gt=0)
    bandwidth_gbs: float = Field(gt=0)
    tile: int = Field(ge=1)
    compute_efficiency: float = Field(gt=0, le=1)
    bandwidth_efficiency: float = Field(gt=0, le=1)
    overhead_us: float = Field(ge=0)


# transport -> what its figures come from, of which kind they are, and in which unit
YIELDS: dict[str, tuple[str, Kind, Unit]] = {
    "local": ("onnxruntime", "measured", "us"),
    "ssh": ("onnxruntime", "measured", "us"),
    "adb": ("onnxruntime", "measured", "us"),
    "gpu": ("onnxruntime", "measured", "us"),
    "qemu_user": ("onnxruntime", "emulated", "instructions"),
    "emulator": ("firmware", "emulated", "instructions"),
    "roofline": ("roofline", "estimated", "us"),
    "simulated": ("simulated", "estimated", "us"),
}
NEEDS = {"qemu_user": "arm64", "emulator": "microcontroller", "roofline": "roofline"}


class DeviceSpec(Record):
    """A device as its profile file describes it.

    `kind` is the kind of device, `figure` the kind of figure it yields, `unit` that figure's unit.
    `affinity` pins the worker to these processors (None: the system decides). `python` runs the
    worker of a GPU (None: the one of edgeprune). The times of a device that is `functional_only`
    mean nothing. `measured_by` names the device that can prove what this one estimates; `note` is
    what whoever reads its figures must know. A `sparse_accelerator` skips single zero weights, all
    other devices gain from whole channels only.
    """

    name: str
    title: str
    kind: Literal["cpu", "gpu", "microcontroller"]
    runtime: Literal["onnxruntime", "simulated", "roofline", "firmware"]
    transport: Literal[
        "local", "simulated", "ssh", "adb", "gpu", "roofline", "qemu_user", "emulator"
    ]
    unit: Unit
    figure: Kind
    providers: tuple[Word, ...] = Field(default=("CPUExecutionProvider",), min_length=1)
    provider_options: dict[str, dict[str, str]] = Field(default_factory=dict)
    python: str | None = None
    threads: int = Field(default=1, ge=1)
    affinity: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    session_config: dict[str, str] = Field(default_factory=dict)
    functional_only: bool = False
    sparse_accelerator: bool = False
    measured_by: str | None = None
    note: str = ""
    simulation: Simulation | None = None
    ssh: Ssh | None = None
    adb: Adb | None = None
    microcontroller: Microcontroller | None = None
    arm64: Arm64 | None = None
    roofline: Roofline | None = None
    source: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _without_contradiction(self) -> Self:
        """A profile may not call a formula measured, nor instructions microseconds."""
        said = {"runtime": self.runtime, "figure": self.figure, "unit": self.unit}
        yields = dict(zip(said, YIELDS[self.transport], strict=True))
        wrong = [f'{key} = "{yields[key]}"' for key in said if said[key] != yields[key]]
        section = NEEDS.get(self.transport)
        if section and getattr(self, section) is None:
            wrong.append(f"a section [{section}]")
        if wrong:
            raise ValueError(f'transport = "{self.transport}" needs {", ".join(wrong)}')
        return self

    @property
    def exact(self) -> bool:
        """Whether asking twice gives the same figures, so that once is enough."""
        return self.figure == "emulated" or self.runtime == "roofline"

    @property
    def computes_outputs(self) -> bool:
        """Whether it returns the outputs of a model, and not only what running it costs."""
        timer = self.transport == "adb" and self.adb is not None and self.adb.mode == "perf_test"
        return self.runtime not in ("simulated", "roofline") and not timer
