"""What was measured on a device."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from edgeprune.records.base import Kind, Record, Shape, Unit


class Environment(Record):
    """What the device says of itself.

    `comparable` names the facts that must agree before two measurements may be compared.
    """

    facts: dict[str, str]
    comparable: tuple[str, ...]

    def differences(self, other: Environment) -> list[str]:
        """Return one line for each comparable fact that differs from `other`'s."""
        names = sorted({*self.comparable, *other.comparable})
        return [
            f"{name}: {self.facts.get(name, 'unknown')} against {other.facts.get(name, 'unknown')}"
            for name in names
            if self.facts.get(name) != other.facts.get(name)
        ]


class Samples(Record):
    """Raw values of one thing in the order they were taken, one tuple per process."""

    name: str
    unit: Unit
    processes: tuple[tuple[float, ...], ...]
    warmup: int
    stopped: Literal["enough", "time", "fixed"]

    @property
    def values(self) -> tuple[float, ...]:
        """All values of all processes."""
        return tuple(value for process in self.processes for value in process)


class LayerProfile(Record):
    """Cost and memory of one layer; `name` is the torch layer, `low`..`high` the 95 % interval."""

    name: str
    operator: str
    cost: float
    low: float
    high: float
    input_shape: Shape
    output_shape: Shape
    macs: int
    parameter_bytes: int
    activation_bytes: int


class ModelProfile(Record):
    """Cost and memory of a whole model on one device.

    `total` is the cost of a run without profiling, `coverage` the share of the profiled run that
    belongs to named layers, `peak_activation_bytes` the largest sum of live activations, and
    `runtime_peak_bytes` what the runtime reported for it (None where it does not say).
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    model: str
    device: str
    kind: Kind
    unit: Unit
    total: float
    total_low: float
    total_high: float
    coverage: float
    layout: float
    peak_activation_bytes: int
    runtime_peak_bytes: int | None
    parameters: int
    macs: int
    file_bytes: int
    environment: Environment
    layers: tuple[LayerProfile, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Comparison(Record):
    """Paired comparison of two models: cost of the first / cost of the second.

    `first_cost` and `second_cost` are the medians over the same pairs; low..high is the interval
    of the median ratio.
    """

    median: float
    low: float
    high: float
    confidence: float
    pairs: int
    processes: int
    first_cost: float
    second_cost: float
    minimum_ratio: float
    stopped: Literal["enough", "time", "exact"]
