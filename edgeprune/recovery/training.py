"""Steps of training: batches with what the dense model makes of them, and models that learn."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgeprune.data import Batch, Data, batches, call, unlabelled
from edgeprune.errors import DataError
from edgeprune.pruning.tracing import trains
from edgeprune.recovery.batchnorm import Measurable, too_small
from edgeprune.recovery.layout import fast_layout, training_layout
from edgeprune.recovery.teaching import class_axis, distillation
from edgeprune.sections import RecoverSection

GRADIENT_NORM = 2.0
Pair = tuple[tuple[Tensor, ...], Tensor]


@dataclass(frozen=True)
class Lesson:
    """A batch to train on, and what the dense model makes of it where it teaches.

    `classes` is the axis of its distributions; None where outputs are values.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    wanted: Tensor | None
    classes: int | None


def lessons(
    dense: nn.Module, data: Data, settings: RecoverSection, models: Sequence[nn.Module]
) -> Iterator[Lesson]:
    """Yield `settings.steps` lessons: batches of training data, or of calibration without any.

    Those of one sample that any of the `models` to be trained cannot take are left out.
    """
    teacher = fast_layout(copy.deepcopy(dense)).eval()
    layout = training_layout(teacher)
    part = data.train if data.train is not None else data.calibration
    stream = endless(part, Measurable(models))
    teaches = settings.steps > 0 and _weight(data, settings) > 0.0
    classes = class_axis(dense, data, settings) if teaches else None
    for inputs, target in itertools.islice(stream, settings.steps):
        wanted = None
        if teaches:
            with torch.no_grad():
                wanted = call(teacher, tuple(map(layout, inputs)))
        yield Lesson(inputs, target, wanted, classes)


class Trainee:
    """A model under training, with its optimiser, schedule and moving average.

    Args:
        model: is trained in place.
        data: gives the loss.
        settings: steps, learning rate, optimiser and distillation.
    """

    def __init__(self, model: nn.Module, data: Data, settings: RecoverSection) -> None:
        steps = settings.steps
        self.model, self.data, self.settings = model, data, settings
        self._optimizer, self._schedule = optimizer_of(
            model, settings.learning_rate, steps, settings.optimizer
        )
        decay = min(0.99, 1.0 - 10.0 / steps) if steps > 10 else 0.0
        average = get_ema_multi_avg_fn(decay)
        self._average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self._infinite = [name for name, b in model.named_buffers() if bool(torch.isinf(b).any())]
        self._layout = training_layout(model)
        self._trains = trains(model)
        self._running = 0.0

    @property
    def averaged(self) -> nn.Module:
        """The moving average of the weights, as a model."""
        return self._average.module

    def learn(self, lesson: Lesson, step: int) -> float:
        """Take step number `step`, from 1 on; return the running mean of the loss.

        Raises:
            DataError: the loss is not finite, or the batch teaches nothing.
        """
        self.model.train()
        loss = self._loss(lesson, step)
        self._optimizer.zero_grad(set_to_none=True)
        if self._trains:  # what is left of a frozen model may hold nothing to train
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self.model)
        for name in self._infinite:  # the mean of two infinities, as it is computed, is NaN
            self.averaged.get_buffer(name).copy_(self.model.get_buffer(name))
        value = finite(loss, step, "[recover] learning_rate")
        self._running = value if step == 1 else 0.95 * self._running + 0.05 * value
        return self._running

    def _loss(self, lesson: Lesson, step: int) -> Tensor:
        weight = _weight(self.data, self.settings)
        output = call(self.model, tuple(map(self._layout, lesson.inputs)))
        total = output.new_zeros(())
        if weight < 1.0:
            labelled = self.data.loss(output, lesson.target)
            if lesson.wanted is None:
                require_labelled(labelled, lesson.inputs, lesson.target, step)
            if unlabelled(labelled.detach(), lesson.inputs, lesson.target):
                weight = 1.0  # the dense model alone teaches, as where no batch has labels
            else:
                total = total + (1.0 - weight) * labelled
        if lesson.wanted is not None:
            settings = self.settings
            taught = distillation(output, lesson.wanted, settings.temperature, lesson.classes)
            total = total + weight * taught
        return total


def side_by_side(
    models: Sequence[nn.Module], dense: nn.Module, data: Data, settings: RecoverSection
) -> Iterator[tuple[int, list[nn.Module]]]:
    """Train `models` in place on the same batches; yield each step and their moving averages.

    What the dense model makes of a batch is computed once for all. Four times the weights of each
    model are in memory at once, the activations of one.
    """
    trainees = [Trainee(model, data, settings) for model in models]
    for step, lesson in enumerate(lessons(dense, data, settings, models), start=1):
        for trainee in trainees:
            trainee.learn(lesson, step)
        yield step, [trainee.averaged for trainee in trainees]


def _weight(data: Data, settings: RecoverSection) -> float:
    """Return the share of distillation in the loss: all of it where there are no labels."""
    if data.train is None:
        return 1.0
    return settings.distill_weight if settings.distill else 0.0


def require_labelled(loss: Tensor, inputs: tuple[Tensor, ...], target: Tensor, step: int) -> None:
    """Make sure that a batch which nothing but its labels teaches has some.

    Raises:
        DataError: its loss is not finite, and it has none.
    """
    loss = loss.detach()
    if unlabelled(loss, inputs, target):
        raise DataError(
            f"training: the batch of step {step} has no labels, and its loss is {float(loss)}",
            "leave such batches of train out in the data factory; in recovery [recover] distill = "
            "true lets the dense model teach on them",
        )


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


def endless(part: Iterable[Batch], usable: Callable[[tuple[Tensor, ...]], bool]) -> Iterator[Pair]:
    """Yield batches of `part` over and over, those whose inputs are `usable`.

    Raises:
        DataError: a pass found no batch, or none that is usable.
    """
    while True:
        count = used = 0
        for inputs, target in batches(part, "train"):
            count += 1
            if usable(inputs):
                used += 1
                yield inputs, target
        if count == 0:
            raise DataError("data: train is empty or can be iterated only once")
        if used == 0:
            raise too_small("train")
