"""What was measured on a device."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from edgeprune.records.base import Cost, Kind, Record, Shape, Unit


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


class Bandwidth(Record):
    """Bytes moved in a second by copies whose working set has `working_set_bytes`."""

    working_set_bytes: int
    bytes_per_second: float


class Peaks(Record):
    """The best that short probes reached on the device: a matrix product, and copies."""

    flops_per_second: float
    bandwidths: tuple[Bandwidth, ...]


class Slice(Record):
    """One node of the runtime in one run: when it started and how long it took, in microseconds.

    `layer` is None for a change of layout.
    """

    name: str
    operator: str
    layer: str | None
    start: float
    duration: float


class LayerProfile(Record):
    """Cost and memory of one layer; `name` is the torch layer, `low`..`high` the 95 % interval.

    `moved_bytes` is what the layer has to read and write at least. `limit_cost` is the least cost
    that the device's peaks allow for it, and `bound` which of the two peaks sets it; `cost` far
    above `limit_cost` tells of a layer that the device runs badly. None where no peak was measured.

    `inside` names the layers of a row that stands for what a provider compiled into one piece:
    their costs cannot be told apart, and they have no rows of their own.
    """

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
    moved_bytes: int = 0
    flops_per_second: float | None = None
    bytes_per_second: float | None = None
    limit_cost: float | None = None
    bound: Literal["compute", "memory"] | None = None
    inside: tuple[str, ...] = ()


class ModelProfile(Record):
    """Cost and memory of a whole model on one device.

    `total` is the cost of a run without the profiler. `sum_of_layers` adds up the named layers,
    `sub_graphs` what providers compiled, whose layers cannot be told apart, `layout` is what
    changes of layout cost, and `rest` what is left of the total: the way into the
    runtime and out again (`call`, measured with a model without work), and what single runs lost
    (below 0 where the profiled nodes cost more than the whole run).
    `coverage` is the share of the run that named layers explain: `sum_of_layers` over the larger of
    the total and all nodes. `node_overhead` is what the profiler adds to a node, already taken off,
    and `empty_node` what a node without work costs.

    `peak_activation_bytes` is the largest sum of live activations, and `runtime_peak_bytes` what
    the runtime reported for it. `resident_peak_bytes` is by how much a process grew while it ran
    the model, `loading_peak_bytes` while it opened it. None where the device does not say.

    `stopped` is "unstable" where time ran out before the total was known well enough; `timeline` is
    the profiled run of median length.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    model: str
    device: str
    kind: Kind
    unit: Unit
    total: Cost
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
    sum_of_layers: float = 0.0
    sub_graphs: float = 0.0
    rest: float = 0.0
    call: float = 0.0
    node_overhead: float = 0.0
    empty_node: float = 0.0
    processes: int = 0
    runs: int = 0
    stopped: Literal["enough", "time", "unstable", "exact"] = "time"
    load_seconds: float | None = None
    resident_peak_bytes: int | None = None
    loading_peak_bytes: int | None = None
    peaks: Peaks | None = None
    warnings: tuple[str, ...] = ()
    timeline: tuple[Slice, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _costs_something(self) -> ModelProfile:
        """Only a formula may say that a whole run costs nothing."""
        if not self.total and self.kind != "estimated":
            raise ValueError("total must be above 0 where it is measured or counted")
        return self

    @property
    def costs(self) -> dict[str, float]:
        """Layer -> cost, for the layers that have a cost of their own."""
        return {layer.name: layer.cost for layer in self.layers if not layer.inside}

    def unsettled(self) -> tuple[str, str]:
        """Return in words what is not known well enough, and what would settle it."""
        share = (self.total_high - self.total_low) / 2 / self.total
        return (
            f"{self.model} on {self.device}: after {self.processes} processes the total is only "
            f"known to {100 * share:.0f} %",
            "close other programs, or allow more time: edgeprune profile ... --seconds 60",
        )


class LayerDifference(Record):
    """The cost of one layer in two profiles; `changed` where their intervals do not overlap."""

    name: str
    before: float | None
    after: float | None
    changed: bool


class ProfileDifference(Record):
    """Two profiles that may be compared; `ratio` is the total after over that before, if any."""

    before: str
    after: str
    unit: Unit
    total_before: float
    total_after: float
    ratio: float | None
    changed: bool
    layers: tuple[LayerDifference, ...]


class Comparison(Record):
    """Paired comparison of two models: cost of the first / cost of the second.

    `first_cost` and `second_cost` are the medians over the same pairs; low..high is the interval
    of the median ratio. Pairs of `disturbed` more processes, in which the first model was slowed,
    do not count.
    """

    median: float
    low: float
    high: float
    confidence: float
    pairs: int
    processes: int
    disturbed: int = 0
    first_cost: float
    second_cost: float
    minimum_ratio: float
    stopped: Literal["enough", "time", "exact"]
