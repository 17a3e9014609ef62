"""The data of a job: batches for training, calibration, validation and test."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from edgeprune.errors import DataError, EdgepruneError, UserFunctionError

WORKER_PLACE = re.compile(r'File "(.+?)", line (\d+), in (\w+)')
JUDGED = ("validation", "test")
LARGEST = 1e100  # of a metric: sums over samples, and what models differ by, are still numbers
Inputs = Tensor | tuple[Tensor, ...]
Batch = tuple[Inputs, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], float]


def top1(output: Tensor, target: Tensor) -> float:
    """Return the share of rows of `output` [N, classes] whose largest entry is at `target` [N]."""
    return float((output.argmax(dim=1) == target).float().mean())


@dataclass(frozen=True)
class Data:
    """Everything edgeprune needs to know of the data.

    Args:
        example_inputs: one input (or tuple of inputs) of the shape that will run on the device.
        train: batches for recovery, or None: then only calibration inputs are used.
        calibration: batches for importance, sensitivity and BatchNorm statistics.
        validation: batches that choose between models.
        loss: loss(output, target) -> scalar tensor; cross-entropy by default.
        metric: metric(output, target) -> float, higher is better; top-1 accuracy by default.
        test: batches for the final figures; validation serves where it is None.

    Batches are (inputs, target); every iterable must allow several passes.
    """

    example_inputs: Inputs
    train: Iterable[Batch] | None
    calibration: Iterable[Batch]
    validation: Iterable[Batch]
    loss: Loss = torch.nn.functional.cross_entropy
    metric: Metric = top1
    test: Iterable[Batch] | None = None

    @property
    def example(self) -> tuple[Tensor, ...]:
        """The example inputs as a tuple."""
        return as_tuple(self.example_inputs)

    @property
    def evaluation(self) -> tuple[Iterable[Batch], Literal["test", "validation"]]:
        """What final figures are taken on and its name: the test data, or validation if none."""
        if self.test is not None:
            return self.test, "test"
        return self.validation, "validation"

    @property
    def metric_name(self) -> str:
        """What reports call the metric."""
        return (
            "top-1 accuracy"
            if getattr(self.metric, "__wrapped__", self.metric) is top1
            else getattr(self.metric, "__name__", "metric")
        )

    def guarded(self) -> Data:
        """Return the same data whose loss and metric name themselves when they fail."""
        loss, metric = _guard(self.loss, "loss", _scalar), _guard(self.metric, "metric", _figure)
        return dataclasses.replace(self, loss=loss, metric=metric)

    def parts(self) -> dict[str, Iterable[Batch]]:
        """Return what is iterated in the same order every time: not the training data."""
        named = {"calibration": self.calibration, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    def check(self) -> None:
        """Look at the first batch of every part.

        Raises:
            DataError: a part is empty, gives no (inputs, target), or has inputs that are not finite
                or of another shape or data type than the example.
        """
        for tensor in self.example:
            if not isinstance(tensor, Tensor):
                raise DataError(
                    f"data: example_inputs holds a {type(tensor).__name__}, not a tensor"
                )
            if not _samples(tensor):
                raise DataError(
                    f"data: example_inputs has the shape {list(tensor.shape)}: no sample",
                    "give the input of one run on the device, [batch, ...]",
                )
        parts = {"calibration": self.calibration, "validation": self.validation}
        if self.train is not None:
            parts["train"] = self.train
        if self.test is not None:
            parts["test"] = self.test
        targets: dict[str, Tensor] = {}
        for name, part in parts.items():
            if not isinstance(part, Iterable):
                raise DataError(f"data: {name} is {part!r}, not an iterable of (inputs, target)")
            if iter(part) is part:
                raise DataError(
                    f"data: {name} can be iterated only once",
                    "return a list, a DataLoader or an object with __iter__, not a generator",
                )
            first = next(iter(batches(part, name)), None)
            if first is None:
                raise DataError(
                    f"data: {name} is empty",
                    "the data factory must return at least one batch of it",
                )
            inputs, target = first
            targets[name] = target
            shapes = [tuple(x.shape[1:]) for x in inputs]
            wanted = [tuple(x.shape[1:]) for x in self.example]
            if shapes != wanted:
                raise DataError(
                    f"data: inputs of {name} have shapes {shapes} after the batch dimension, "
                    f"example_inputs {wanted}"
                )
            if types_of(inputs) != types_of(self.example):
                raise DataError(
                    f"data: inputs of {name} are {', '.join(types_of(inputs))}, example_inputs "
                    f"{', '.join(types_of(self.example))}",
                    "bring both to the data type that will run on the device, in the data factory",
                )
        _check_labels(targets)


def _check_labels(targets: Mapping[str, Tensor]) -> None:
    """Make sure that labels of all parts are numbers of the kind that validation has."""
    wanted = targets["validation"]
    for name, target in targets.items():
        alike = target.ndim == wanted.ndim and target.numel() > 0 and wanted.numel() > 0
        if alike and target.is_floating_point() != wanted.is_floating_point():
            raise DataError(
                f"data: targets of {name} are {types_of((target,))[0]}, those of validation "
                f"{types_of((wanted,))[0]}",
                "classes are int64, values are float32: bring both to one in the data factory",
            )


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return one or several inputs as a tuple."""
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def types_of(inputs: tuple[Tensor, ...]) -> list[str]:
    """Return the names of the data types of `inputs`: 'float32'."""
    return [str(x.dtype).removeprefix("torch.") for x in inputs]


def batches(
    part: Iterable[Batch], name: str = "data"
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Yield the batches of `part` with their inputs as a tuple.

    Batches that models are judged on have one shape, but for their number of samples, and one data
    type: the shipped model takes no other.

    Raises:
        DataError: something else than (inputs, target), a batch without samples or an input that is
            not finite came, or a second pass found nothing.
        UserFunctionError: the iterable itself fails.
    """
    shapes: list[tuple[int, ...]] = []
    types: list[str] = []
    for index, batch in enumerate(_told(part, name)):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(
                f"data: batch {index} of {name} is a {type(batch).__name__}, not (inputs, target)"
            )
        inputs, target = batch
        named = [*((x, "inputs") for x in as_tuple(inputs)), (target, "target")]
        for part_of, what in named:
            if not isinstance(part_of, Tensor):
                raise DataError(
                    f"data: batch {index} of {name} holds something that is not a tensor: its "
                    f"{what} is a {type(part_of).__name__}",
                    "where there are no labels, the target is an empty tensor: torch.empty(0)",
                )
        if not all(_samples(x) for x in as_tuple(inputs)):
            raise DataError(
                f"data: batch {index} of {name} holds no samples",
                "leave empty batches out in the data factory",
            )
        here = [tuple(x.shape[1:]) for x in as_tuple(inputs)]
        shapes = shapes or here
        if name in JUDGED and here != shapes:
            raise DataError(
                f"data: inputs of batch {index} of {name} have shapes {here} after the batch "
                f"dimension, those of the batches before {shapes}",
                "bring all samples to one shape in the data factory",
            )
        types = types or types_of(as_tuple(inputs))
        if name in JUDGED and types_of(as_tuple(inputs)) != types:
            raise DataError(
                f"data: inputs of batch {index} of {name} are "
                f"{', '.join(types_of(as_tuple(inputs)))}, those of the batches before "
                f"{', '.join(types)}",
                "bring all samples to one data type in the data factory",
            )
        if not all(torch.isfinite(x).all() for x in as_tuple(inputs) if x.is_floating_point()):
            raise DataError(
                f"data: batch {index} of {name} holds NaN or infinity in its inputs",
                "repair these samples in the data factory, or leave them out",
            )
        yield as_tuple(inputs), target


def first_batches(
    part: Iterable[Batch], count: int, name: str
) -> list[tuple[tuple[Tensor, ...], Tensor]]:
    """Return batches from the start of `part` that hold at least `count` samples, if there are.

    Raises:
        DataError: `part` is empty.
    """
    taken: list[tuple[tuple[Tensor, ...], Tensor]] = []
    samples = 0
    for inputs, target in batches(part, name):
        taken.append((inputs, target))
        samples += len(inputs[0])
        if samples >= count:
            break
    if not taken:
        raise DataError(f"data: {name} is empty or can be iterated only once")
    return taken


def call(model: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the single output tensor of `model` for `inputs`."""
    output: Any = model(*inputs)
    if not isinstance(output, Tensor):
        raise DataError(
            f"the model returns a {type(output).__name__}",
            "wrap it so that it returns one tensor; several outputs are not supported yet",
        )
    return output


def has_labels(inputs: tuple[Tensor, ...], target: Tensor) -> bool:
    """Whether `target` can be a label: one entry a sample, not NaN, not all negative classes."""
    if target.ndim == 0 or not target.numel() or len(target) != len(inputs[0]):
        return False
    if target.is_floating_point():
        return not bool(torch.isnan(target).all())
    return not bool((target < 0).all())


def unlabelled(loss: Tensor | float, inputs: tuple[Tensor, ...], target: Tensor) -> bool:
    """Whether `loss` is not finite because the batch has no labels, such as ignored ones alone."""
    return not math.isfinite(loss) and not has_labels(inputs, target)


def require_finite(
    loss: Tensor | float, samples: int, part: str = "calibration", cut: str = ""
) -> None:
    """Make sure that a mean loss over `part` is finite.

    It is the dense model's, or where `cut` says what was cut, that of a cut one.

    Raises:
        UserFunctionError: it is not.
    """
    if math.isfinite(loss):
        return
    what = f"data: loss returned {float(loss)} for {samples} samples of {part}"
    if cut:
        raise UserFunctionError(
            f"{what}, with {cut}",
            "it must be finite for whatever a cut model gives: bound what it divides by or takes "
            "the logarithm or exponential of, or spare what must not be cut with [prune] keep or "
            "floors",
        )
    raise UserFunctionError(
        what, "it must be finite for what the dense model gives: look at it, and at these samples"
    )


def _told(part: Iterable[Batch], name: str) -> Iterator[Any]:
    """Yield what `part` yields; a fault inside it is the user's, and told as such."""
    try:
        yield from part
    except (EdgepruneError, GeneratorExit, MemoryError):
        raise
    except Exception as error:
        raise _fault(error, f"data: the loader of {name}", part) from error


def _guard(function: Callable[..., Any], role: str, read: Callable[[Any, Any], Any]) -> Any:
    """Return `function`, whose failure is told as that of the user's `role`."""
    if getattr(function, "_guards", None) == role:
        return function

    @functools.wraps(function)
    def called(output: Tensor, target: Tensor) -> Any:
        try:
            found = function(output, target)
        except (EdgepruneError, MemoryError):
            raise
        except Exception as error:
            what = f"data: {role} {_name(function)}"
            shapes = f"; its arguments: {_shape(output)} and {_shape(target)}"
            raise _fault(error, what, function, shapes) from error
        return read(found, output)

    called._guards = role  # type: ignore[attr-defined]
    return called


def _scalar(found: Any, output: Tensor) -> Tensor:
    if not isinstance(found, Tensor) or found.numel() != 1:
        shown = _shape(found) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserFunctionError(f"data: loss returned {shown}", "it must return a scalar tensor")
    if torch.is_grad_enabled() and output.requires_grad and not found.requires_grad:
        raise UserFunctionError(
            f"data: loss returned {_shape(found)} without a gradient",
            "make it of what torch can differentiate, not of argmax() or detach(); or take a "
            "criterion without gradients, as l2, and no training by labels: [recover] "
            "distill_weight = 1.0",
        )
    return found.reshape(())


def _figure(found: Any, _: Tensor) -> float:
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError):
        raise UserFunctionError(
            f"data: metric returned a {type(found).__name__}", "it must return a number"
        ) from None
    if not abs(value) <= LARGEST:
        raise UserFunctionError(
            f"data: metric returned {value}",
            f"it must return a finite number of at most {LARGEST:g}, whatever its sign",
        )
    return value


def _fault(error: Exception, what: str, owner: object, more: str = "") -> UserFunctionError:
    """Return the error that tells a fault in a function of the user: where, and what it said.

    The place is the innermost frame of the fault outside of edgeprune and torch.
    """
    ours = (str(Path(__file__).parent), str(Path(torch.__file__).parent))
    places = [(f.filename, f.lineno, f.name) for f in traceback.extract_tb(error.__traceback__)]
    said = str(error).strip().splitlines() or ["no message"]
    told = f"{type(error).__name__}: {said[0]}"
    if "Original Traceback" in str(error):  # of a worker process of a DataLoader, as text
        places, told = WORKER_PLACE.findall(str(error)), said[-1]
    outside = [place for place in places if not place[0].startswith(ours)]
    where = ""
    if outside:
        file, line, name = outside[-1]
        where = f" in {name} ({file}, line {line})"
    return UserFunctionError(
        f"{what} failed{where}: {told}{more}",
        f"the fault lies in {_name(owner)}, which the data factory gave; -v shows the traceback",
    )


def _samples(inputs: Tensor) -> int:
    return inputs.shape[0] if inputs.ndim else 0


def _name(thing: object) -> str:
    kind = type(thing)
    module = getattr(thing, "__module__", kind.__module__)
    return f"{module}.{getattr(thing, '__qualname__', kind.__qualname__)}"


def _shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
