"""What every allocator works on, and what it answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from edgeprune.allocation.problem import Problem, build_problem
from edgeprune.cost.prediction import Predictor
from edgeprune.data import Data, first_batches
from edgeprune.importance.meter import RECALIBRATION_SAMPLES, mean_loss, told
from edgeprune.importance.scores import keep_best, spanning
from edgeprune.pruning.groups import cut
from edgeprune.records import ChannelGroup, CostTable, PlannedGroup, SensitivityCurve
from edgeprune.recovery.batchnorm import has_batchnorm, recalibrate
from edgeprune.recovery.layout import channels_last, fast_layout

LOSS_SAMPLES = 256  # on which the loss of a whole candidate is measured
Kept = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Point:
    """A plan that a search has found: its widths, predicted cost and loss."""

    widths: Mapping[str, int]
    cost: float
    loss: float


@dataclass(frozen=True)
class Proposal:
    """The channels of each group that an allocator keeps.

    `gap` is the proven relative optimality gap, None where nothing is proven. `front` holds what a
    search found that nothing else beats in both cost and loss.
    """

    kept: Kept
    gap: float | None = None
    front: tuple[Point, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """Group -> width."""
        return {name: len(channels) for name, channels in self.kept.items()}


@dataclass(frozen=True)
class Task:
    """One allocation: model, prices, scores and loss curves.

    Args:
        model: the dense model.
        data: calibration data, for allocators that measure losses.
        groups: the groups of the table.
        table: prices and offered widths.
        curves: group -> its best curve.
        scores: criterion -> group -> score of each channel [width].
        criterion: which scores rank; None takes within each group the criterion of its curve, and
            the first of `scores` that has them all where one ranking spans groups.
        round_to: widths are rounded down to a multiple of this, where the rule knows rounding.
        normalise: how scores are made comparable where one ranking spans groups.
        floors: group -> narrowest width that the job allows.
        kind: of the device: "cpu", "gpu" or "microcontroller".
        seed: of whatever is drawn.
    """

    model: nn.Module
    data: Data
    groups: tuple[ChannelGroup, ...]
    table: CostTable
    curves: Mapping[str, SensitivityCurve]
    scores: Mapping[str, Mapping[str, Tensor]]
    criterion: str | None = None
    round_to: int | None = None
    normalise: str = "mean"
    floors: Mapping[str, int] = field(default_factory=dict)
    kind: str = "cpu"
    seed: int = 0
    memory: dict[object, object] = field(default_factory=dict)  # what a rule keeps between calls
    measured: dict[str, float] = field(default_factory=dict)  # digest of a cut -> its loss

    @cached_property
    def problem(self) -> Problem:
        """Offered widths, losses and prices."""
        return build_problem(self.table, self.curves)

    @property
    def widths(self) -> dict[str, int]:
        """Group -> dense width."""
        return {name: widths[-1] for name, widths in self.table.widths.items()}

    def criterion_of(self, group: str) -> str:
        """Return the criterion that ranks the channels of `group` among themselves."""
        return self.criterion or self.curves[group].criterion

    def ranking(self, group: str) -> Tensor:
        """Return the scores [width] that rank the channels of `group` among themselves."""
        return self.scores[self.criterion_of(group)][group]

    @property
    def spanning(self) -> dict[str, Tensor]:
        """Group -> scores [width] of one and the same criterion.

        Raises:
            UsageError: none scores all groups.
        """
        scores = self.scores[self._spanning]
        return {name: scores[name] for name in self.table.widths}

    @property
    def _spanning(self) -> str:
        return self.criterion or spanning(self.scores, self.table.widths)

    def best(self, widths: Mapping[str, int]) -> Kept:
        """Return the channels of highest score at these widths."""
        return {name: keep_best(self.ranking(name), width) for name, width in widths.items()}

    def allowed(self, kept: Kept) -> Kept:
        """Return `kept` as the model and the job allow it: whole bundles, no width under a floor.

        Of a group whose channels go in bundles, the bundles stay of which most channels were kept
        (the better score decides between equals), as many as fit into the width. Where a floor is
        above the width, the best of the other channels stay too.
        """
        return kept | {
            group.name: self._allowed(group, kept[group.name])
            for group in self.groups
            if group.divisor > 1 or len(kept[group.name]) < self.floors.get(group.name, 1)
        }

    def _allowed(self, group: ChannelGroup, channels: Sequence[int]) -> tuple[int, ...]:
        step = math.lcm(group.divisor, self.round_to or 1)
        if step > group.width:  # no width is a multiple of both
            step = group.divisor
        least = max(self.floors.get(group.name, 1), group.narrowest)
        width = min(group.width, max(len(channels) // step * step, -(-least // step) * step))
        stay, scores = set(channels), self.ranking(group.name)

        def rank(bundle: tuple[int, ...]) -> tuple[int, float]:
            return -len(stay.intersection(bundle)), -float(scores[list(bundle)].mean())

        best = sorted(group.bundles(), key=rank)[: width // group.divisor]
        return tuple(sorted(channel for bundle in best for channel in bundle))

    def planned(self, kept: Kept, *, spanned: bool = False) -> dict[str, PlannedGroup]:
        """Return what a plan records of the kept channels."""
        return {
            name: PlannedGroup(
                before=self.table.widths[name][-1],
                after=len(channels),
                kept=channels,
                criterion=self._spanning if spanned else self.criterion_of(name),
            )
            for name, channels in kept.items()
        }

    def cost(self, widths: Mapping[str, int]) -> float:
        """Return the predicted cost at any widths, in the device's unit.

        Raises:
            UnsupportedModelError: a layer has no price at all.
        """
        return self._predictor(widths).cost

    def loss(self, kept: Kept) -> float:
        """Return the loss of the model cut to `kept`, its BatchNorm recalibrated; each cut once.

        Raises:
            UserFunctionError: it is not finite.
        """
        key = digest(kept)
        if key not in self.measured:
            slim = fast_layout(cut(self.model, self.data.example, kept))
            if has_batchnorm(slim):
                recalibrate(slim, self._statistics)
            self.measured[key] = mean_loss(slim, self.data, self._batches, told(kept))
        return self.measured[key]

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.table)

    @cached_property
    def _batches(self) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        taken = first_batches(self.data.calibration, LOSS_SAMPLES, "calibration")
        return [(tuple(map(channels_last, x)), y) for x, y in taken]

    @cached_property
    def _statistics(self) -> list[tuple[Tensor, ...]]:
        taken = first_batches(self.data.calibration, RECALIBRATION_SAMPLES, "calibration")
        return [tuple(map(channels_last, x)) for x, _ in taken]


def digest(kept: Mapping[str, Sequence[int]]) -> str:
    """Return a name of the kept channels of all groups."""
    text = json.dumps({name: list(channels) for name, channels in sorted(kept.items())})
    return hashlib.sha256(text.encode()).hexdigest()
