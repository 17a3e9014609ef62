"""From a plan, or a fresh network, to accuracies before and after the same recovery."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from edgeprune.data import Data, first_batches
from edgeprune.pruning.shrink import shrink
from edgeprune.records import WidthPlan
from edgeprune.recovery.batchnorm import recalibrate
from edgeprune.recovery.finetuning import CALIBRATION_SAMPLES, metric_on, recover
from edgeprune.recovery.layout import fast_layout
from edgeprune.sections import RecoverSection

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Trained:
    """The metric on test data (validation where there is none) before recovery and after."""

    before: float | None
    after: float


def final_metric(model: nn.Module, data: Data) -> float:
    """Return the metric of a model on the test data, or on validation data where none is."""
    part, name = data.evaluation
    return metric_on(model, data, first_batches(part, 1 << 62, name))


def recovered(
    dense: nn.Module,
    data: Data,
    plan: WidthPlan,
    settings: RecoverSection,
    *,
    seed: int,
    progress: Progress,
) -> Trained:
    """Cut as planned, recalibrate, and recover with the job's settings."""
    slim = shrink(dense, data.example, plan)
    before = fast_layout(copy.deepcopy(slim))
    recalibrate(before, [x for x, _ in first_batches(data.calibration, CALIBRATION_SAMPLES, "")])
    first = final_metric(before, data)
    if settings.steps == 0:
        return Trained(first, first)
    kept = {name: group.kept for name, group in plan.groups.items() if group.after}
    found = recover(slim, dense, data, settings, seed=seed, kept=kept, progress=progress)
    return Trained(first, final_metric(found.model, data))


def from_scratch(
    fresh: nn.Module,
    dense: nn.Module,
    data: Data,
    settings: RecoverSection,
    *,
    seed: int,
    progress: Progress,
) -> Trained:
    """Train a network of fresh weights with the schedule, and the teacher, of recovery."""
    settings = settings.model_copy(update={"reconstruct": False})
    found = recover(fresh, dense, data, settings, seed=seed, progress=progress)
    return Trained(None, final_metric(found.model, data))
