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


def class_axis(output: Tensor, target: Tensor, data: Data, said: str = "auto") -> int | None:
    """Return the axis of `output` along which classes lie; None where it holds values.

    What the job has not `said` is told by the target: one of floating point and the output's shape,
    with another loss than cross-entropy, is made of values; one of whole numbers lacks the axis of
    the classes. Without labels classes lie along axis 1, as cross-entropy takes them.

    Raises:
        DataError: neither tells it.
    """
    if said != "auto":
        return {"classes": 1, "classes_last": -1, "values": None}[said]
    shape = tuple(output.shape)
    if output.ndim < 2 or shape[-1] == 1:  # no distribution over classes
        return None
    if target.is_floating_point() and target.shape == output.shape:
        return 1 if _is_cross_entropy(data) else None
    if output.ndim == 2 or tuple(target.shape) == (shape[0], *shape[2:]):
        return 1
    if tuple(target.shape) == shape[:-1]:
        return -1
    if not has_labels((output,), target):
        return 1
    raise DataError(
        f"the model's outputs have shape {list(shape)} and targets {list(target.shape)}: along "
        "which axis classes lie, which distillation has to know, does not follow",
        '[recover] outputs = "classes" (axis 1), "classes_last" or "values" says it, or '
        "distill = false",
    )


def require_teachable(model: nn.Module, data: Data, settings: RecoverSection) -> None:
    """Make sure, before any work, that it is known what the dense model would teach.

    Raises:
        DataError: it is not.
    """
    if settings.steps and (data.train is None or (settings.distill and settings.distill_weight)):
        inputs, target = first_batches(data.calibration, 1, "calibration")[0]
        with torch.inference_mode():
            class_axis(call(model, inputs), target, data, settings.outputs)


def _is_cross_entropy(data: Data) -> bool:
    loss = getattr(data.loss, "__wrapped__", data.loss)
    return loss is nn.functional.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)
