"""The exported file and everything that is claimed of it."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from edgeprune.records.base import Kind, Record, Shape, Unit
from edgeprune.records.device import Environment, ModelProfile
from edgeprune.records.footprint import Footprint
from edgeprune.records.plan import ScheduleHistory
from edgeprune.records.transforms import Prepared, StoredSize


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


class Figures(Record):
    """What one model costs and achieves; `footprint` is that of its firmware, where it has one."""

    cost: float
    parameters: int
    macs: int
    accuracy: float
    file_bytes: int
    peak_activation_bytes: int
    footprint: Footprint | None = None


class Speedup(Record):
    """Median of paired ratios with its interval; pairs of `disturbed` processes do not count."""

    median: float
    low: float
    high: float
    confidence: float
    pairs: int
    disturbed: int = 0


class Parity(Record):
    """Largest difference between torch and the runtime over real inputs.

    `note` is what a reader must know of these outputs.
    """

    max_abs: float
    max_rel: float
    samples: int
    passed: bool
    limit: float = 1e-4
    note: str = ""


class FirmwareParity(Record):
    """Largest difference between firmware and runtime over real inputs, in units of int8.

    `top1_agreement` is the share of samples whose largest output is the same; `repeats` tells that
    the firmware, run again, gave the same bytes.
    """

    max_units: float
    limit: float
    top1_agreement: float
    samples: int
    passed: bool
    repeats: bool = True


class Budget(Record):
    """What was asked, the limit in the device's unit, and what was reached."""

    asked: str
    limit: float
    reached: float
    met: bool


class OtherAttempt(Record):
    """Of two attempts the one that does not ship: which, and its cost over the limit of cost."""

    number: Literal[1, 2]
    share: float


class Prediction(Record):
    """Cost predicted for the first plan, before any was measured whole, and its relative error.

    It tells how far prices of layers can be trusted. The plan that ships may be a later one of the
    closed loop; what that one costs is measured (`slim.cost` of the verdict). A time is told at the
    speed of the dense model's profile, not at that of the verdict.
    """

    cost: float
    error: float


class PlanSummary(Record):
    """Layer -> [width before, width after], and the solver's gap."""

    widths: dict[str, tuple[int, int]]
    gap: float | None
    digest: str
    criteria: dict[str, str] = Field(default_factory=dict)


class Gate(Record):
    """A condition of success; `met` is None where it could not be measured.

    `command` would settle it, called in the shipped folder.
    """

    name: str
    met: bool | None
    limit: float
    value: float
    note: str = ""
    command: str = ""


class Verdict(Record):
    """Everything that is claimed of the slim model, as shipped in verdict.json.

    `note` is what a reader of its costs must know of the device; `precision` is what costs, and the
    accuracy of the slim model, are of (None in verdicts written before it was told); `schedule`
    tells the steps where there were several, or training before the cut.
    `accuracy_drop_interval` is None where the evaluation data comes in too few parts to tell.
    `prepared` is what was done before widths were chosen, `stored` the dense and the slim file as
    they are stored, for masked models. `other_attempt` is told where the first attempt missed the
    budget and a second one was made.
    """

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
    firmware: FirmwareParity | None = None
    budget: Budget
    predicted: Prediction
    plan: PlanSummary
    gates: tuple[Gate, ...]
    metric: str
    accuracy_on: Literal["test", "validation"]
    accuracy_samples: int
    accuracy_drop_interval: tuple[float, float] | None
    recalibrated_accuracy: float
    seed: int
    environment: Environment
    note: str = ""
    precision: Literal["float32", "int8"] | None = None
    prepared: Prepared | None = None
    stored: tuple[StoredSize, StoredSize] | None = None
    schedule: ScheduleHistory | None = None
    other_attempt: OtherAttempt | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Verification(Record):
    """The verdict with the profile of the slim model behind it."""

    verdict: Verdict
    slim_profile: ModelProfile
