"""What a device is: the contents of profiles/<name>.toml, one section for each transport."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeprune.records.base import Kind, Record, Unit

Word = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]  # one line without control characters
Target = Annotated[
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

    host: Target | None = None
    config: Word | None = None
    connect_timeout_seconds: float = Field(default=10.0, ge=1)


class Adb(Remote):
    """An Android device reached by adb: the worker under Termux, or a pushed perf_test binary.

    `package` is the app whose Python is used (termux), `binary` the onnxruntime_perf_test on this
    machine, with its libraries beside it (perf_test).
    """

    serial: Target | None = None
    mode: Literal["termux", "perf_test"] = "termux"
    package: Target = "com.termux"
    binary: Word | None = None
    python: Word = "/data/data/com.termux/files/usr/bin/python"


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


class DeviceSpec(Record):
    """A device as its profile file describes it.

    `kind` is the kind of device, `figure` the kind of figure it yields, `unit` that figure's unit.
    `affinity` pins the worker to these processors (None: the system decides).
    """

    name: str
    title: str
    kind: Literal["cpu", "gpu", "microcontroller"]
    runtime: Literal["onnxruntime", "simulated"]
    transport: Literal["local", "simulated", "ssh", "adb"]
    unit: Unit
    figure: Kind
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = Field(default=1, ge=1)
    affinity: tuple[int, ...] | None = None
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    simulation: Simulation | None = None
    ssh: Ssh | None = None
    adb: Adb | None = None
    source: dict[str, str] = Field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether asking twice gives the same figures, so that once is enough."""
        return self.figure == "emulated"

    @property
    def computes_outputs(self) -> bool:
        """Whether it returns the outputs of a model, and not only what running it costs."""
        timer = self.transport == "adb" and self.adb is not None and self.adb.mode == "perf_test"
        return self.transport != "simulated" and not timer
