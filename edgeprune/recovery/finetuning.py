"""Fine-tuning a slim model, with distillation from the dense one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgeprune.data import Data, call, first_batches
from edgeprune.pruning.tracing import trains
from edgeprune.recovery.batchnorm import recalibrate
from edgeprune.recovery.layout import channels_last, fast_layout
from edgeprune.recovery.reconstruction import Reconstruction, reconstruct
from edgeprune.recovery.training import Pair, Trainee, lessons
from edgeprune.sections import RecoverSection

CHECKS = (0.5, 0.7, 0.85, 1.0)  # of the steps, after which the model is validated
CHECK_SAMPLES = 5000
CALIBRATION_SAMPLES = 2000
Point = tuple[int, float, float]


@dataclass(frozen=True)
class Recovery:
    """A recovered model, the metric of its best state and before the first step, the history.

    `recalibrated` is the metric after reconstruction, if asked for, and recalibration. `history`
    holds (step, training loss, validation metric) at each check.
    """

    model: nn.Module
    best: float
    recalibrated: float
    history: tuple[Point, ...]
    reconstruction: Reconstruction | None = None


def recover(
    slim: nn.Module,
    dense: nn.Module,
    data: Data,
    settings: RecoverSection,
    *,
    seed: int,
    kept: Mapping[str, Sequence[int]] | None = None,
    original: nn.Module | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Recovery:
    """Return `slim` recovered in at most `settings.steps` steps; the best state is kept.

    With `settings.reconstruct` the layers behind a cut are first re-fitted to those of `original`,
    the model that was cut (`dense` if it is None); `kept` says which channels of each group
    stayed, None that nothing was cut. BatchNorm statistics are recalibrated. Then SGD with Nesterov
    momentum, or AdamW, under a one-cycle schedule minimises
    (1 - a) * loss + a * T^2 * KL(teacher / T || student / T) (arXiv 1503.02531).
    Without training data the calibration inputs serve and only the dense model's outputs teach.
    An exponential moving average of the weights is what is checked and kept (arXiv 1803.05407
    shows why averages along a trajectory generalise better than its end). The state of best metric
    on (at most 5,000 samples of) validation data wins, step 0 included. Frozen parameters are not
    trained, but re-fitted; where all are frozen, no step is taken.

    Raises:
        DataError: no batches, or the loss stops being finite.
    """
    source = dense if original is None else original
    model, rebuilt = prepared(slim, source, data, settings, seed=seed, kept=kept, progress=progress)
    checked = first_batches(data.validation, CHECK_SAMPLES, "validation")
    best = recalibrated = metric_on(model, data, checked)
    state = copy.deepcopy(model.state_dict())
    history: list[Point] = []
    if settings.steps == 0 or not trains(model):
        return Recovery(model.eval(), best, recalibrated, (), rebuilt)
    checks = {max(1, round(share * settings.steps)) for share in CHECKS}
    trainee = Trainee(model, data, settings)
    for step, lesson in enumerate(lessons(dense, data, settings, [model]), start=1):
        running = trainee.learn(lesson, step)
        if step in checks:
            metric = metric_on(trainee.averaged, data, checked)
            history.append((step, running, metric))
            if metric > best:
                best, state = metric, copy.deepcopy(trainee.averaged.state_dict())
        progress(step, settings.steps, f"loss {running:.3f}, best {data.metric_name} {best:.4f}")
    model.load_state_dict(state)
    return Recovery(model.eval(), best, recalibrated, tuple(history), rebuilt)


def prepared(
    slim: nn.Module,
    original: nn.Module,
    data: Data,
    settings: RecoverSection,
    *,
    seed: int,
    kept: Mapping[str, Sequence[int]] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[nn.Module, Reconstruction | None]:
    """Return a copy of `slim` before its first step: reconstructed if wanted, recalibrated.

    Arguments are those of `recover`.
    """
    torch.manual_seed(seed)
    rebuilt = None
    if settings.reconstruct and kept:
        rebuilt = reconstruct(slim, original, data, kept, progress=progress)
        slim = rebuilt.model
    model = fast_layout(copy.deepcopy(slim))
    calibration = first_batches(data.calibration, CALIBRATION_SAMPLES, "calibration")
    recalibrate(model, [inputs for inputs, _ in calibration])
    return model, rebuilt


def metric_on(model: nn.Module, data: Data, samples: list[Pair]) -> float:
    """Return the metric of `model` over `samples`, weighted by batch size."""
    model.eval()
    with torch.inference_mode():
        total = sum(
            data.metric(call(model, tuple(map(channels_last, x))), y) * len(x[0])
            for x, y in samples
        )
    return total / sum(len(x[0]) for x, _ in samples)
