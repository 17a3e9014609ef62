"""What a device is: the contents of profiles/<name>.toml, one section for each transport."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgeprune.records.base import Kind, Record, Unit


class Simulation(Record):
    """The known cost staircase of a simulated device.

    A convolution or matrix product costs `overhead + macs_rounded_up / rate`, where both of its
    widths are rounded up to a multiple of `step`; an output width above `step` that is not such a
    multiple costs `cliff` times that. `noise` is the relative standard deviation of seeded noise.

    `process_noise` is the standard deviation of the logarithm of a factor that each process draws
    for each model. The whole device falls from full speed to `1 / regime` of it and back, each
    time after `regime_runs` runs on average, and gets slower by `drift` a second.
    """

    step: int = Field(default=8, ge=1)
    macs_per_us: float = Field(default=20_000.0, gt=0)
    overhead_us: float = Field(default=2.0, ge=0)
    cliff: float = Field(default=1.0, ge=1)
    noise: float = Field(default=0.0, ge=0, lt=0.5)
    process_noise: float = Field(default=0.0, ge=0, lt=0.5)
    regime: float = Field(default=1.0, ge=1)
    regime_runs: float = Field(default=1000.0, ge=1)
    drift: float = Field(default=0.0, ge=0)
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
    transport: Literal["local", "simulated"]
    unit: Unit
    figure: Kind
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = Field(default=1, ge=1)
    affinity: tuple[int, ...] | None = None
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    simulation: Simulation | None = None
    source: dict[str, str] = Field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether asking twice gives the same figures, so that once is enough."""
        return self.figure == "emulated"
