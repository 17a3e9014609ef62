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
    """

    step: int = Field(default=8, ge=1)
    macs_per_us: float = Field(default=20_000.0, gt=0)
    overhead_us: float = Field(default=2.0, ge=0)
    cliff: float = Field(default=1.0, ge=1)
    noise: float = Field(default=0.0, ge=0, lt=0.5)
    seed: int = 0


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


class DeviceSpec(Record):
    """A device as its profile file describes it.

    `kind` is the kind of device, `figure` the kind of figure it yields, `unit` that figure's unit.
    `affinity` pins the worker to these processors (None: the system decides). `python` runs the
    worker of a GPU (None: the one of edgeprune). The times of a device that is `functional_only`
    mean nothing. `measured_by` names the device that can prove what this one estimates; `note` is
    what whoever reads its figures must know.
    """

    name: str
    title: str
    kind: Literal["cpu", "gpu", "microcontroller"]
    runtime: Literal["onnxruntime", "roofline", "simulated"]
    transport: Literal["gpu", "local", "roofline", "simulated"]
    unit: Unit
    figure: Kind
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    provider_options: dict[str, dict[str, str]] = Field(default_factory=dict)
    python: str | None = None
    threads: int = Field(default=1, ge=1)
    affinity: tuple[int, ...] | None = None
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    functional_only: bool = False
    measured_by: str | None = None
    note: str = ""
    simulation: Simulation | None = None
    roofline: Roofline | None = None
    source: dict[str, str] = Field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether asking twice gives the same figures, so that once is enough."""
        return self.figure == "emulated" or self.runtime == "roofline"
