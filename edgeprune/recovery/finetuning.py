"""Fine-tuning a slim model, with distillation from the dense one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgeprune.data import Batch, Data, batches, call, first_batches
from edgeprune.errors import DataError, InternalCheckError
from edgeprune.recovery.batchnorm import recalibrate
from edgeprune.recovery.layout import channels_last, fast_layout, training_layout
from edgeprune.recovery.reconstruction import Reconstruction, reconstruct
from edgeprune.sections import RecoverSection

CHECKS = (0.5, 0.7, 0.85, 1.0)  # of the steps, after which the model is validated
CHECK_SAMPLES = 5000
CALIBRATION_SAMPLES = 2000
GRADIENT_NORM = 2.0
Point = tuple[int, float, float]
Pair = tuple[tuple[Tensor, ...], Tensor]


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
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Recovery:
    """Return `slim` recovered in at most `settings.steps` steps; the best state is kept.

    With `settings.reconstruct` the layers behind a cut are first re-fitted; `kept` says which
    channels of each group stayed. BatchNorm statistics are recalibrated. Then SGD with Nesterov
    momentum, or AdamW, under a one-cycle schedule minimises
    (1 - a) * loss + a * T^2 * KL(teacher / T || student / T) (arXiv 1503.02531).
    Without training data the calibration inputs serve and only the dense model's outputs teach.
    An exponential moving average of the weights is what is checked and kept (arXiv 1803.05407
    shows why averages along a trajectory generalise better than its end). The state of best metric
    on (at most 5,000 samples of) validation data wins, step 0 included.

    Raises:
        DataError: no batches, or the loss stops being finite.
        InternalCheckError: reconstruction is asked for and `kept` is not given.
    """
    torch.manual_seed(seed)
    rebuilt = None
    if settings.reconstruct:
        if kept is None:
            raise InternalCheckError("reconstruction needs the channels that the plan kept")
        rebuilt = reconstruct(slim, dense, data, kept, progress=progress)
        slim = rebuilt.model
    model = fast_layout(copy.deepcopy(slim))
    calibration = first_batches(data.calibration, CALIBRATION_SAMPLES, "calibration")
    recalibrate(model, [inputs for inputs, _ in calibration])
    checked = first_batches(data.validation, CHECK_SAMPLES, "validation")
    best = recalibrated = metric_on(model, data, checked)
    state = copy.deepcopy(model.state_dict())
    history: list[Point] = []
    if settings.steps == 0:
        return Recovery(model.eval(), best, recalibrated, (), rebuilt)
    teacher = fast_layout(copy.deepcopy(dense)).eval()
    weight = settings.distill_weight if settings.distill else 0.0
    if data.train is None:
        weight = 1.0
    optimizer, schedule = optimizer_of(
        model, settings.learning_rate, settings.steps, settings.optimizer
    )
    decay = min(0.99, 1.0 - 10.0 / settings.steps) if settings.steps > 10 else 0.0
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    checks = {max(1, round(share * settings.steps)) for share in CHECKS}
    stream = endless(data.train if data.train is not None else data.calibration)
    layout = training_layout(model)
    running = 0.0
    for step in range(1, settings.steps + 1):
        model.train()
        inputs, target = next(stream)
        inputs = tuple(map(layout, inputs))
        loss = _loss(model, teacher, data, inputs, target, weight, settings.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        value = finite(loss, step, "[recover] learning_rate")
        running = value if step == 1 else 0.95 * running + 0.05 * value
        if step in checks:
            metric = metric_on(average.module, data, checked)
            history.append((step, running, metric))
            if metric > best:
                best, state = metric, copy.deepcopy(average.module.state_dict())
        progress(step, settings.steps, f"loss {running:.3f}, best {data.metric_name} {best:.4f}")
    model.load_state_dict(state)
    return Recovery(model.eval(), best, recalibrated, tuple(history), rebuilt)


def metric_on(model: nn.Module, data: Data, samples: list[Pair]) -> float:
    """Return the metric of `model` over `samples`, weighted by batch size."""
    model.eval()
    with torch.inference_mode():
        total = sum(
            data.metric(call(model, tuple(map(channels_last, x))), y) * len(y) for x, y in samples
        )
    return total / sum(len(y) for _, y in samples)


def finite(loss: Tensor, step: int, lower: str) -> float:
    """Return the loss of a training step as a number.

    Raises:
        DataError: it is not finite; `lower` says which setting to lower.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DataError(f"training: the loss is not finite at step {step}", f"lower {lower}")
    return value


def optimizer_of(
    model: nn.Module, learning_rate: float, steps: int, kind: str = "sgd"
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return an optimiser with its one-cycle schedule; only matrices decay.

    `kind` is "sgd", with Nesterov momentum, or "adam", which is AdamW.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}]
    if kind == "adam":  # decay is decoupled there (arXiv 1711.05101), not a gradient
        groups[0]["weight_decay"] = 0.01
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    else:
        optimizer = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps + 1, pct_start=0.15
    )
    return optimizer, schedule


def _loss(
    model: nn.Module,
    teacher: nn.Module,
    data: Data,
    inputs: tuple[Tensor, ...],
    target: Tensor,
    weight: float,
    temperature: float,
) -> Tensor:
    output = call(model, inputs)
    total = output.new_zeros(())
    if weight < 1.0:
        total = total + (1.0 - weight) * data.loss(output, target)
    if weight > 0.0:
        with torch.no_grad():
            wanted = call(teacher, inputs)
        total = total + weight * distillation(output, wanted, temperature)
    return total


def distillation(output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(wanted / T) || softmax(output / T)), mean over rows [N, classes].

    A single output column has no distribution over classes: there the mean squared error serves.
    """
    if output.shape[-1] == 1 or output.ndim < 2:
        return nn.functional.mse_loss(output, wanted)
    student = nn.functional.log_softmax(output / temperature, dim=1)
    teacher = nn.functional.log_softmax(wanted / temperature, dim=1)
    divergence = nn.functional.kl_div(student, teacher, log_target=True, reduction="none").sum(1)
    return temperature**2 * divergence.mean()


def endless(part: Iterable[Batch]) -> Iterator[Pair]:
    """Yield batches of `part` over and over."""
    while True:
        count = 0
        for pair in batches(part, "train"):
            count += 1
            yield pair
        if count == 0:
            raise DataError("data: train is empty or can be iterated only once")
