"""What a comparison of allocators at equal measured cost leaves."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from edgeprune.records.base import Kind, Record, Unit, Whole


class BenchDense(Record):
    """The metric of the dense model."""

    accuracy: float


class Narrow(Record):
    """A dense model of smaller uniform width: the factor, and its cost and MACs against dense."""

    factor: float = Field(gt=0.0)
    cost_ratio: Whole
    macs_ratio: float = Field(ge=0.0)


class BenchRow(Record):
    """One method at one budget with one seed.

    `target` is the share of the dense cost asked for, `cost_ratio` the share found on the device.
    `steps` is how long recovery took, `dense_steps` how long models that are trained from scratch
    were trained beside it, as the dense model was; `accuracy_before_recovery` is that after cutting
    and BatchNorm recalibration alone, None for models that are trained from scratch. `seconds` is
    how long training took; methods that keep the same channels are trained once. `trained` is a
    digest of what was trained, and how: rows that share it and the seed are of one training. Files
    of earlier versions have none.
    """

    method: str
    target: float = Field(gt=0.0)
    seed: int = Field(ge=0)
    steps: int = Field(ge=0)
    dense_steps: int = Field(default=0, ge=0)
    cost_ratio: Whole
    macs_ratio: float = Field(ge=0.0)
    accuracy_before_recovery: float | None
    accuracy: float
    seconds: float = Field(ge=0.0)
    trained: str = ""


class BenchResult(Record):
    """All rows; `target` is the first of `targets`. `skipped` says what was left out, and why."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    job: str
    device: str
    kind: Kind
    unit: Unit
    target: float
    targets: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    rows: tuple[BenchRow, ...]
    dense: BenchDense
    metric: str
    accuracy_on: Literal["test", "validation"]
    samples: int
    skipped: tuple[str, ...] = ()
    complete: bool = True
    versions: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, str] = Field(default_factory=dict)

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
