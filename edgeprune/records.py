"""The frozen records that cross stages, with units in their field names.

Every record reads and writes JSON (`model_dump_json`, `model_validate_json`) and refuses unknown
fields. Three kinds of figure never mix: *measured* (on a device, in time), *emulated* (exact counts
of an emulator) and *estimated* (from a formula).
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["measured", "emulated", "estimated"]
Unit = Literal["us", "instructions"]
Shape = tuple[int, ...]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN in their JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    source: dict[str, str] = {}


class Simulation(Record):
    """The known cost staircase of a simulated device.

    A convolution or matrix product costs `overhead + macs_rounded_up / rate`, where both of its
    widths are rounded up to a multiple of `step`; widths that are not such a multiple cost
    `cliff` times as much. `noise` is the relative standard deviation of seeded noise.
    """

    step: int = Field(default=8, ge=1)
    macs_per_us: float = Field(default=20_000.0, gt=0)
    overhead_us: float = Field(default=2.0, ge=0)
    cliff: float = Field(default=1.0, ge=1)
    noise: float = Field(default=0.0, ge=0, lt=0.5)
    seed: int = 0


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


class ChannelGroup(Record):
    """Layers that lose channels together.

    `name` is the layer whose output channels number the group, `width` their count. `outputs`
    produce the group's channels, `inputs` consume them, `carriers` (BatchNorm, depthwise) do both.
    """

    name: str
    width: int
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    carriers: tuple[str, ...] = ()


class SkippedGroup(Record):
    """A group that is never cut, and why."""

    name: str
    width: int
    reason: str


class GroupList(Record):
    """All groups of a model."""

    groups: tuple[ChannelGroup, ...]
    skipped: tuple[SkippedGroup, ...]

    def __getitem__(self, name: str) -> ChannelGroup:
        return next(group for group in self.groups if group.name == name)


class Price(Record):
    """Cost of one layer at one pair of widths."""

    layer: str
    width_in: int
    width_out: int
    cost: float
    origin: Literal["measured", "emulated", "estimated"]


class CostTable(Record):
    """Prices of every layer of one model on one device, and the widths worth offering.

    `fixed` layers have neither input nor output in a group: their price never changes.
    `scale` = whole dense model / sum of its prices: what a sum of prices is multiplied with.
    """

    device: str
    kind: Kind
    unit: Unit
    dense_cost: float
    scale: float
    layers: tuple[PricedLayer, ...]
    widths: dict[str, tuple[int, ...]]
    prices: tuple[Price, ...]
    probes: int
    environment: Environment


class PricedLayer(Record):
    """A layer as the cost table sees it: which group feeds it and which group it feeds."""

    name: str
    operator: str
    group_in: str | None
    group_out: str | None
    width_in: int
    width_out: int


class SensitivityCurve(Record):
    """Loss increase over the dense model when only this group is cut to each width.

    `widths` run from narrow to dense; the last is the dense width with increase 0.
    """

    group: str
    criterion: str
    widths: tuple[int, ...]
    increases: tuple[float, ...]


class Sensitivity(Record):
    """All loss curves that were measured."""

    curves: tuple[SensitivityCurve, ...]


class PlannedGroup(Record):
    """Width of a group before and after, and the channels that stay."""

    before: int
    after: int
    kept: tuple[int, ...]
    criterion: str


class Round(Record):
    """One round of the closed loop: what was predicted, what was measured."""

    widths: dict[str, int]
    predicted: float
    measured: float
    low: float
    high: float


class WidthPlan(Record):
    """How wide each group is to be.

    `predicted` is the solver's cost of the first plan and `predicted_error` its relative error
    against the first measurement; `gap` is the solver's proven relative optimality gap.
    """

    groups: dict[str, PlannedGroup]
    budget: float
    unit: Unit
    predicted: float
    predicted_error: float
    corrected: float
    gap: float
    loss: float
    rounds: tuple[Round, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over groups and kept channels: the same plan has the same digest."""
        kept = {name: [group.before, *group.kept] for name, group in sorted(self.groups.items())}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


class Shrunk(Record):
    """The slim model as cut, and on how many samples it was proved equal to the masked one."""

    parameters: int
    dense_parameters: int
    checked_samples: int


class Recovered(Record):
    """How recovery went: validation metric after recalibration alone and of the best state.

    `history` holds (step, training loss, validation metric).
    """

    recalibrated: float
    best: float
    history: tuple[tuple[int, float, float], ...]


class TensorInfo(Record):
    """Name, element type and shape of an input or output."""

    name: str
    dtype: str
    shape: Shape


class Artifact(Record):
    """An exported file; `path` is relative to the folder of the run."""

    path: str
    sha256: str
    file_bytes: int
    opset: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: dict[str, str]


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


class Figures(Record):
    """What one model costs and achieves."""

    cost: float
    parameters: int
    macs: int
    accuracy: float
    file_bytes: int
    peak_activation_bytes: int


class Speedup(Record):
    """Median of paired ratios with its interval."""

    median: float
    low: float
    high: float
    confidence: float
    pairs: int


class Parity(Record):
    """Largest difference between torch and the runtime over real inputs."""

    max_abs: float
    max_rel: float
    samples: int
    passed: bool


class Budget(Record):
    """What was asked, the limit in the device's unit, and what was reached."""

    asked: str
    limit: float
    reached: float
    met: bool


class Prediction(Record):
    """Cost predicted before the first measurement and its relative error."""

    cost: float
    error: float


class PlanSummary(Record):
    """Layer -> [width before, width after], and the solver's gap."""

    widths: dict[str, tuple[int, int]]
    gap: float
    digest: str
    criteria: dict[str, str] = {}


class Gate(Record):
    """A condition of success; `met` is None where it could not be measured."""

    name: str
    met: bool | None
    limit: float
    value: float
    note: str = ""


class Verdict(Record):
    """Everything that is claimed of the slim model, as shipped in verdict.json."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    job: str
    device: str
    kind: Kind
    unit: Unit
    passed: bool
    dense: Figures
    slim: Figures
    speedup: Speedup
    parity: Parity
    budget: Budget
    predicted: Prediction
    plan: PlanSummary
    gates: tuple[Gate, ...]
    metric: str
    accuracy_on: Literal["test", "validation"]
    accuracy_samples: int
    accuracy_drop_interval: tuple[float, float]
    recalibrated_accuracy: float
    seed: int
    environment: Environment

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Verification(Record):
    """The verdict with the profile of the slim model behind it."""

    verdict: Verdict
    slim_profile: ModelProfile


DeviceSpec.model_rebuild()
CostTable.model_rebuild()
