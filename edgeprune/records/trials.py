"""Experiments: what several methods made of one dense model."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from edgeprune.records.base import Record


class Trial(Record):
    """One slim model and what it achieves; (`experiment`, `method`, `share`, `seed`) is its name.

    `share` is how much of every group's channels went. `recalibrated` is the metric on validation
    data before any training, `metric` that of the recovered model on test data. `stages` holds
    (share gone, validation metric) of a schedule's steps, `kept` the channels that stayed.
    """

    experiment: str
    method: str
    share: float
    seed: int
    recalibrated: float
    metric: float
    parameters: int
    stages: tuple[tuple[float, float], ...] = ()
    kept: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What names the trial."""
        return self.experiment, self.method, self.share, self.seed


class Trials(Record):
    """All trials of one dense model under the same conditions.

    `metric` names what is given, higher is better; `dense` and `parameters` are the dense model's.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    title: str
    metric: str
    dense: float
    parameters: int
    conditions: dict[str, str]
    trials: tuple[Trial, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def of(self, experiment: str) -> tuple[Trial, ...]:
        """Return the trials of one experiment."""
        return tuple(trial for trial in self.trials if trial.experiment == experiment)

    def get(self, experiment: str, method: str, share: float, seed: int = 0) -> Trial | None:
        """Return one trial, or None if it was not made."""
        key = (experiment, method, share, seed)
        return next((trial for trial in self.trials if trial.key == key), None)
