"""What the dense model teaches: how far outputs are from its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call, first_batches, has_labels
from edgeprune.errors import DataError
from edgeprune.sections import RecoverSection


def distillation(
    output: Tensor, wanted: Tensor, temperature: float, classes: int | None = 1
) -> Tensor:
    """Return T^2 * KL(softmax(wanted / T) || softmax(output / T)), mean over all distributions.

    Args:
        output: of the slim model, any shape.
        wanted: of the dense model, of the same shape.
        temperature: T.
        classes: axis of the logits of a distribution; None where outputs are values, of which the
            mean squared error is returned.
    """
    if classes is None:
        return nn.functional.mse_loss(output, wanted)
    student = nn.functional.log_softmax(output / temperature, dim=classes)
    teacher = nn.functional.log_softmax(wanted / temperature, dim=classes)
    divergence = nn.functional.kl_div(student, teacher, log_target=True, reduction="none")
    return temperature**2 * divergence.sum(classes).mean()


def class_axis(model: nn.Module, data: Data, settings: RecoverSection) -> int | None:
    """Return the axis of outputs along which classes lie; None where they hold values.

    What `settings` do not say is told by labels of calibration or else validation data: those of
    floating point and the outputs' shape, with another loss than cross-entropy, are values; whole
    numbers lack the axis of the classes. Without labels classes lie along axis 1, as cross-entropy
    takes them. An axis of a single class is none.

    Raises:
        DataError: nothing tells it.
    """
    if settings.outputs != "auto":
        return {"classes": 1, "classes_last": -1, "values": None}[settings.outputs]
    with torch.inference_mode():
        shape = tuple(call(model, data.example).shape[1:])
    if not shape or shape[-1] == 1:  # no distribution over classes
        return None
    crossed = _is_cross_entropy(data)
    axis = 1 if crossed and len(shape) == 1 else _told_by_labels(shape, data, crossed)
    return axis if axis is None or (1, *shape)[axis] > 1 else None


def _told_by_labels(shape: tuple[int, ...], data: Data, crossed: bool) -> int | None:
    """Return the axis of classes of outputs [N, *shape]; `crossed`: by cross-entropy."""
    for name, part in (("calibration", data.calibration), ("validation", data.validation)):
        inputs, target = first_batches(part, 1, name)[0]
        if has_labels(inputs, target):
            break
    else:
        if crossed:
            return 1
    told = tuple(target.shape[1:])
    if has_labels(inputs, target):
        if target.is_floating_point() and told == shape:
            return 1 if crossed else None
        if len(shape) == 1 or told == shape[1:]:
            return 1
        if told == shape[:-1]:
            return -1
    raise DataError(
        f"the model's outputs have shape {[*shape]} a sample and targets {[*told]}: along which "
        "axis classes lie, which distillation has to know, does not follow",
        '[recover] outputs = "classes" (axis 1), "classes_last" or "values" says it, or '
        "distill = false",
    )


def require_teachable(model: nn.Module, data: Data, settings: RecoverSection) -> None:
    """Make sure, before any work, that it is known what the dense model would teach.

    Raises:
        DataError: it is not.
    """
    if settings.steps and (data.train is None or (settings.distill and settings.distill_weight)):
        class_axis(model, data, settings)


def _is_cross_entropy(data: Data) -> bool:
    loss = getattr(data.loss, "__wrapped__", data.loss)
    return loss is nn.functional.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)
