"""Whether model and data fit each other, told before any work."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeprune.data import Data, first_batches, has_labels, require_finite, types_of
from edgeprune.errors import DataError, UnsupportedModelError


def check_inputs_kept(model: nn.Module, data: Data) -> None:
    """Make sure that the model leaves its inputs as they are.

    It is run on a copy of the example inputs. Where these are all the same value, such as zeros,
    what a model does to them may not show: then on the first calibration batch too. That it runs
    at all is for `check_runs` to say.

    Raises:
        UnsupportedModelError: it writes into them, so that whoever uses them next finds others.
    """
    samples = [data.example]
    if any(bool((tensor == tensor.flatten()[:1]).all()) for tensor in data.example):
        samples.append(first_batches(data.calibration, 1, "calibration")[0][0])
    for inputs in samples:
        given = tuple(tensor.clone() for tensor in inputs)
        try:
            with torch.inference_mode():
                model(*given)
        except Exception:  # noqa: BLE001 - foreign code may raise anything; see above
            continue
        if not all(map(_same, given, inputs)):
            raise UnsupportedModelError(
                "the model changes its input in place",
                "use x = x - mean, not x.sub_(mean); nor may its first layer work in place",
            )


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(
        torch.isclose(first, second, rtol=0.0, atol=0.0, equal_nan=True).all()
    )


def check_runs(model: nn.Module, data: Data) -> Tensor:
    """Run the model on the example inputs and return its output.

    Raises:
        UnsupportedModelError: the forward pass fails, or gives something other than one tensor
            with the samples first.
        DataError: the inputs are of other data types than the model takes, or the output is not
            finite.
    """
    output = _run(model, data.example, "example_inputs")
    if not bool(torch.isfinite(output).all()):
        raise DataError("the model's output for example_inputs holds NaN or infinity")
    return output


def check_judges(model: nn.Module, data: Data) -> None:
    """Look at the output for the first calibration batch; take loss and metric if it has labels.

    A fault in them is told so before hours of measuring rather than after.

    Raises:
        UnsupportedModelError: the forward pass fails, or the output is not that of the example but
            for the number of samples.
        UserFunctionError: loss or metric fails, or the loss is not finite.
    """
    inputs, target = first_batches(data.calibration, 1, "calibration")[0]
    wanted = check_runs(model, data).shape[1:]
    output = _run(model, inputs, "the first calibration batch")
    if output.shape[1:] != wanted:
        raise UnsupportedModelError(
            f"the model returns {list(output.shape[1:])} for each of {len(inputs[0])} samples of "
            f"calibration, and {list(wanted)} for each of example_inputs",
            "the output for a sample must not depend on the size of its batch",
        )
    if not has_labels(inputs, target):
        return
    with torch.inference_mode():
        require_finite(data.loss(output, target), len(target))
        data.metric(output, target)


def check_gradient(model: nn.Module, data: Data) -> None:
    """Take the loss of the first validation batch with gradients, if it has labels.

    Calibration may be drawn at random, and is not drawn from before its time.

    Raises:
        UserFunctionError: it has none.
    """
    inputs, target = first_batches(data.validation, 1, "validation")[0]
    output = _run(model, inputs, "the first validation batch").clone()
    if output.is_floating_point() and has_labels(inputs, target):
        data.loss(output.requires_grad_() * 1.0, target)  # losses may work in place, on no leaf


def _run(model: nn.Module, inputs: tuple[Tensor, ...], what: str) -> Tensor:
    """Return the output for `inputs`, called `what`: one tensor with the samples first.

    Outputs are cut and joined along their first axis wherever models are judged.

    Raises:
        DataError: the model does not run on them, but does on the same values of other data types.
        UnsupportedModelError: it does not run, or gives something else.
    """
    try:
        with torch.inference_mode():
            output: object = model(*inputs)
    except Exception as error:  # the user's code may raise anything
        if wanted := _types_it_runs_on(model, inputs):
            raise DataError(
                f"data: {what}: the model does not run on {', '.join(types_of(inputs))}, but does "
                f"on {', '.join(wanted)}",
                "return model.float() from the model factory"
                if "float64" in wanted
                else "bring example_inputs and the inputs of all batches to that in the data "
                "factory, as with x.float()",
            ) from error
        raise UnsupportedModelError(
            f"the model does not run on {what}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        raise UnsupportedModelError(
            f"the model returns a {type(output).__name__}", "wrap it so that it returns one tensor"
        )
    if output.ndim < 1 or len(output) != len(inputs[0]):
        raise UnsupportedModelError(
            f"the model returns {list(output.shape)} for {what}, which holds {len(inputs[0])} "
            "samples: the first axis of the output must be that of the samples",
            "wrap it so that it returns [samples, ...]: no squeeze(), the batch first",
        )
    return output


def _types_it_runs_on(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Return data types of `inputs` that the model runs on: some or all are those of its weights.

    There are none where another thing is wrong than the types.
    """
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    for kind in types:
        for given in (
            tuple(x.to(kind) if x.is_floating_point() else x for x in inputs),
            tuple(x.to(kind) for x in inputs),
        ):
            try:
                with torch.inference_mode():
                    model(*given)
            except Exception:  # noqa: BLE001 - the user's code may raise anything; no answer
                continue
            return types_of(given)
    return []
