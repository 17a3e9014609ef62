"""Groups, sensitivity and the plan that follows from them and the prices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from edgeprune.records.base import Record, Unit


class ChannelGroup(Record):
    """Layers that lose channels together.

    `name` is the layer whose output channels number the group, `width` their count. `outputs`
    produce the group's channels, `inputs` consume them, `carriers` (BatchNorm, depthwise) do both.

    Channels go in bundles of `divisor`, so widths are multiples of it, and two bundles stay (else a
    grouped convolution would be a depthwise one): the same place in each of `divisor` equal parts,
    or (`contiguous`) whole parts of that size, such as heads of attention.

    `entries` tells of each layer of `inputs` that does not read one entry a channel (flattened
    channels have several) how many of its input's entries are the group's.
    """

    name: str
    width: int = Field(ge=1)
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    carriers: tuple[str, ...] = ()
    divisor: int = Field(default=1, ge=1)
    contiguous: bool = False
    entries: dict[str, int] = Field(default_factory=dict)

    def entries_in(self, layer: str) -> int:
        """Return how many entries of the input of `layer`, one of `inputs`, are the group's."""
        return self.entries.get(layer, self.width)

    @property
    def narrowest(self) -> int:
        """The smallest width that can be cut to."""
        return 1 if self.divisor == 1 else 2 * self.divisor

    def bundles(self) -> tuple[tuple[int, ...], ...]:
        """Return the channels that can only go together."""
        count = self.width // self.divisor
        if self.contiguous:
            size = self.divisor
            return tuple(tuple(range(k * size, (k + 1) * size)) for k in range(count))
        return tuple(tuple(range(k, self.width, count)) for k in range(count))


class SkippedGroup(Record):
    """A group that is never cut, and why."""

    OUTPUT: ClassVar[str] = "it is the model's output"
    CUTTING: ClassVar[str] = "cutting it"  # how reasons found by trial begin
    TOLD: ClassVar[int] = 6  # groups that a message names

    name: str
    width: int
    reason: str

    @classmethod
    def by_reason(cls, groups: Iterable[SkippedGroup]) -> dict[str, str]:
        """Return reason -> the first few names of the groups that it holds for."""
        names: dict[str, list[str]] = {}
        for group in groups:
            names.setdefault(group.reason, []).append(group.name)
        return {
            reason: ", ".join(of[: cls.TOLD])
            + (f" and {len(of) - cls.TOLD} more" if len(of) > cls.TOLD else "")
            for reason, of in names.items()
        }


class ResidualBlock(Record):
    """A branch beside a skip connection that can go as a whole.

    `last` is the layer whose output is added to the skip connection, `layers` all layers that go,
    `groups` the groups of channels that lie in the branch entirely: width 0 of them stands for it.
    """

    last: str
    layers: tuple[str, ...]
    groups: tuple[str, ...]

    def gone(self, widths: Mapping[str, int]) -> bool:
        """Whether group -> width tells that the branch is removed."""
        return all(widths.get(group) == 0 for group in self.groups)


class BlockLoss(Record):
    """Loss increase over the dense model when only this branch is removed."""

    last: str
    increase: float


class GroupList(Record):
    """All groups of a model, and the branches that can go as a whole."""

    groups: tuple[ChannelGroup, ...]
    skipped: tuple[SkippedGroup, ...]
    blocks: tuple[ResidualBlock, ...] = ()

    def __getitem__(self, name: str) -> ChannelGroup:
        return next(group for group in self.groups if group.name == name)


class SensitivityCurve(Record):
    """Loss increase over the dense model when only this group is cut to each width.

    `widths` run from narrow to dense; the last is the dense width with increase 0. `drops` are
    those of the metric, where it was taken. `even` and `odd` are the increases on every second
    calibration batch and on the others, where there are several.
    """

    group: str
    criterion: str
    widths: tuple[int, ...]
    increases: tuple[float, ...]
    drops: tuple[float, ...] = ()
    even: tuple[float, ...] = ()
    odd: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _one_a_width(self) -> SensitivityCurve:
        count = len(self.widths)
        others = (self.drops, self.even, self.odd)
        if (
            not count
            or len(self.increases) != count
            or any(len(o) not in (0, count) for o in others)
        ):
            raise ValueError("a curve has one increase a width, and as many drops or none")
        return self


class Sensitivity(Record):
    """All loss curves that were measured, and what removing each branch costs."""

    curves: tuple[SensitivityCurve, ...]
    blocks: tuple[BlockLoss, ...] = ()


class PlannedGroup(Record):
    """Width of a group before and after, and the channels that stay: none in a removed branch."""

    before: int
    after: int
    kept: tuple[int, ...]
    criterion: str


class MeasuredPlan(Record):
    """Widths that were measured whole: what was predicted, what was measured."""

    widths: dict[str, int]
    predicted: float
    measured: float
    low: float
    high: float


class Round(MeasuredPlan):
    """One round of the closed loop: the plan nearest to its aim, and others at the same prices."""

    beside: tuple[MeasuredPlan, ...] = ()


class ResourceUse(Record):
    """A limit besides the main budget: what the plan uses of it, and what the dense model does."""

    name: str
    unit: str
    limit: float
    used: float
    dense: float


class GroupReason(Record):
    """Why a group has its width: the cost that it saves, in the device's unit, and the loss.

    `saves` is the cost of the plan if this group alone were at `before`, its width in the model
    that is cut, minus the plan's. Layers between two groups count for both, so that the sum over
    groups is not what the plan saves. Of a removed branch, all stands at its first group.
    """

    group: str
    before: int
    after: int
    saves: float
    loses: float


class NextStep(Record):
    """What a little more of a limit would buy: `wins` of loss, for `added` units beyond it.

    `price` is the shadow price, loss per unit; `widths` are those that would change.
    """

    limit: str
    unit: str
    added: float
    wins: float
    price: float
    widths: dict[str, tuple[int, int]]


class Explanation(Record):
    """What each group saves and loses, and what the next units of the limits would buy."""

    groups: tuple[GroupReason, ...]
    steps: tuple[NextStep, ...]


class FrontPoint(Record):
    """A plan of a search that no other it found beats in both predicted cost and measured loss."""

    widths: dict[str, int]
    cost: float
    loss: float


class PlanTrial(Record):
    """A plan recovered for a few steps: its validation loss before them (`start`) and after.

    `predicted` is its cost as predicted; the given plan of trials was measured.
    """

    widths: dict[str, int]
    predicted: float
    start: float
    loss: float
    steps: int


Losses = Literal["of dense", "of what is left", "scores"]


class WidthPlan(Record):
    """How wide each group is to be.

    `predicted` is the solver's cost of the first plan and `predicted_error` its relative error
    against the first measurement; `gap` is by which share a plan within the budget may at most have
    less `loss`, as the solver proved at the prices of the last round, None where nothing is proven.
    `loss` is what was minimised: for `exact` the summed losses of the groups, for the others the
    loss of the whole plan on calibration data before recovery. `held_by`
    names what keeps a plan below 97 % of the budget: resources in full use, or the offered widths.
    `removed` are the branches that go as a whole; their groups have width 0. `whole_loss` is the
    loss increase of the whole plan over the dense model, measured after BatchNorm recalibration on
    the samples of the curves: what it differs from `loss` by is what the groups' losses do not
    add up to. `trials` are plans that recovery was tried with, this one among them.
    `unheeded` are limits beside the budget that `allocation` does not know: nothing but
    their gates judges them. `losses` tells what the groups' losses are.
    """

    groups: dict[str, PlannedGroup]
    budget: float
    unit: Unit
    predicted: float
    predicted_error: float
    corrected: float
    gap: float | None
    loss: float
    rounds: tuple[Round, ...] = ()
    resources: tuple[ResourceUse, ...] = ()
    held_by: tuple[str, ...] = ()
    unheeded: tuple[str, ...] = ()
    removed: tuple[ResidualBlock, ...] = ()
    whole_loss: float | None = None
    trials: tuple[PlanTrial, ...] = ()
    explanation: Explanation | None = None
    allocation: str = "exact"
    losses: Losses = "of dense"
    front: tuple[FrontPoint, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over groups, kept channels and removed branches: one digest a plan."""
        kept = {
            name: [group.before, *sorted(group.kept)] for name, group in sorted(self.groups.items())
        }
        for block in self.removed:
            kept[f"without {block.last}"] = []
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


class Shrunk(Record):
    """The slim model as cut, and on how many samples it was proved equal to the masked one."""

    parameters: int
    dense_parameters: int
    checked_samples: int


class Recovered(Record):
    """How recovery went: validation metric before training and of the best state.

    Before training BatchNorm is recalibrated and, where the job asks for it, layers are re-fitted.
    `history` holds (step, training loss, validation metric).
    """

    recalibrated: float
    best: float
    history: tuple[tuple[int, float, float], ...]


class ScheduleStep(Record):
    """One step of a schedule: what it was to cost, what its plan cost, the metric it recovered to.

    Costs are in the device's unit; the metrics are on validation data, `recalibrated` before
    training. `widths` are those of every group.
    """

    number: int
    limit: float
    cost: float
    recalibrated: float
    metric: float
    training_steps: int
    widths: dict[str, int]


class Regularised(Record):
    """Training before the cut: validation metric before and after.

    `history` holds (step, training loss, share of the channels' sizes that the weaker half holds).
    """

    kind: str
    before: float
    after: float
    history: tuple[tuple[int, float, float], ...]


class ScheduleHistory(Record):
    """The steps of a schedule that were taken, and why it stopped before the `planned` ones.

    If it `stopped`, the last step listed was not good and the one before it is what ships.
    """

    kind: str
    planned: int
    steps: tuple[ScheduleStep, ...]
    stopped: str = ""
    regularised: Regularised | None = None
