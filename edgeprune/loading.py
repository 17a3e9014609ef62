"""Models, weights and data named in a job, loaded without ever unpickling code."""

from __future__ import annotations

import importlib
import inspect
import random
import re
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune

from edgeprune.data import Data
from edgeprune.errors import EdgepruneError, FactoryError, UnsupportedModelError, WeightsError
from edgeprune.job import Job

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
UNSAFE = re.compile(r"GLOBAL (\S+)")  # what torch.load names when it refuses to import it
GARBAGE = (  # what torch.load raises on files that are none of its own
    OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    ArithmeticError, AssertionError, struct.error,
)  # fmt: skip


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load_model(job: Job, folder: Path) -> nn.Module:
    """Return the job's model in eval mode, with its weights.

    Raises:
        FactoryError: the factory cannot be imported or does not return a module.
        WeightsError: the weights are unreadable, do not fit or are not finite.
    """
    model = _fresh_model(job, folder)
    if job.model.weights is not None:
        load_weights(model, folder / job.model.weights)
    check_finite(model)
    return model.eval()


def initial_state(job: Job, folder: Path) -> dict[str, Tensor]:
    """Return the state of the job's model before its weights are loaded.

    Raises:
        FactoryError: the factory cannot be imported or does not return a module.
    """
    return _fresh_model(job, folder).state_dict()


def _fresh_model(job: Job, folder: Path) -> nn.Module:
    seed_everything(job.seed)
    model = call_factory(job.model.factory, folder, "model.factory")
    if not isinstance(model, nn.Module):
        raise FactoryError(
            f"model.factory {job.model.factory!r} returned a {type(model).__name__}, "
            "not a torch.nn.Module"
        )
    check_form(model)
    return model


def load_data(job: Job, folder: Path) -> Data:
    """Return the job's data, its first batches checked.

    Raises:
        FactoryError: the factory cannot be imported or does not return edgeprune.Data.
        DataError: a part of it is empty or malformed.
    """
    seed_everything(job.seed)
    data = call_factory(job.data.factory, folder, "data.factory", seed=job.seed)
    if not isinstance(data, Data):
        raise FactoryError(
            f"data.factory {job.data.factory!r} returned a {type(data).__name__}, "
            "not edgeprune.Data"
        )
    data.check()
    return data.guarded()


def find_factory(factory: str, folder: Path, key: str) -> Callable[..., Any]:
    """Import "module:function" beside the job or from sys.path.

    Raises:
        FactoryError: there is none; says why.
    """
    module_name, _, function_name = factory.partition(":")
    module = _import(module_name, folder, key)
    function: Any = module
    for part in function_name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise FactoryError(
            f"{key}: {module_name} ({getattr(module, '__file__', 'built in')}) has no function "
            f"{function_name!r}"
        )
    found: Callable[..., Any] = function
    return found


def call_factory(factory: str, folder: Path, key: str, **offered: Any) -> Any:
    """Import "module:function" beside the job or from sys.path, and call it.

    It finds modules beside the job when it is called, too. Those of the `offered` keyword arguments
    that the function names are passed.

    Raises:
        FactoryError: import or call failed; says how.
    """
    function = find_factory(factory, folder, key)
    try:
        named = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        named = set()
    try:
        with _beside(folder):
            return function(**{name: value for name, value in offered.items() if name in named})
    except EdgepruneError:
        raise
    except (KeyboardInterrupt, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise FactoryError(f"{key} {factory!r} failed: {type(error).__name__}: {error}") from error


def _import(name: str, folder: Path, key: str) -> Any:
    """Import `name`, beside the job first; a module of another job is not mistaken for it."""
    local = folder.resolve()
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names and (local / f"{top}.py").is_file():
        raise FactoryError(
            f"{key}: {local / f'{top}.py'} has the name of a module of Python's standard library",
            "rename the file: other packages would import it by mistake",
        )
    beside = (local / f"{top}.py").is_file() or (local / top / "__init__.py").is_file()
    loaded = sys.modules.get(top)
    if beside and loaded is not None:
        origin = getattr(loaded, "__file__", None)
        own = {local / f"{top}.py", local / top / "__init__.py"}
        if origin is None or Path(origin).resolve() not in own:
            for module in [m for m in sys.modules if m == top or m.startswith(f"{top}.")]:
                del sys.modules[module]
    try:
        with _beside(local):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in (name, top):
            hint = f"it is looked for in {local} and on sys.path"
            raise FactoryError(f"{key}: no module named {name!r}", hint) from None
        raise FactoryError(f"{key}: {name} needs {error.name!r}, which is not installed") from error
    except (EdgepruneError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"{key}: importing {name} failed: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Have modules looked for in `folder` first."""
    local = str(folder.resolve())
    sys.path.insert(0, local)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):  # foreign code may have changed the path
            sys.path.remove(local)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a .safetensors, .pt or .pth file.

    Raises:
        WeightsError: missing, unreadable, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"model.weights: no file {path}")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                f"model.weights: {path} is not a safetensors file: {error}"
            ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of is refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = UNSAFE.search(str(error))
        reason = f": it asks for {named[1]}" if named else ""
        raise WeightsError(
            f"model.weights: {path} is not plain weights and is not loaded{reason}",
            "save the state dict only: safetensors.torch.save_file(model.state_dict(), ...)",
        ) from None
    except GARBAGE as error:
        raise WeightsError(
            f"model.weights: {path} cannot be read: {type(error).__name__}: {error}"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"model.weights: {path} holds no state dict (names -> tensors)",
            "save model.state_dict() itself, not a checkpoint around it",
        )
    return state


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the state dict at `path` into `model`; every name and shape must fit.

    Where it holds masks of torch.nn.utils.prune (X_orig, X_mask), the model gets them.

    Raises:
        WeightsError: lists what is missing, left over or of another shape.
    """
    state = read_state(path)
    _take_masks(model, state)
    own = model.state_dict()
    faults = [f"missing: {name}" for name in own if name not in state]
    faults += [f"not in the model: {name}" for name in state if name not in own]
    faults += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if faults:
        more = [f"... and {len(faults) - 8} more"] if len(faults) > 8 else []
        listed = "".join(f"\n  - {fault}" for fault in [*faults[:8], *more])
        raise WeightsError(f"model.weights: {path} does not fit the model:{listed}")
    model.load_state_dict(state)


def _take_masks(model: nn.Module, state: dict[str, Tensor]) -> None:
    for name, parameter in list(model.named_parameters()):
        masked = state.get(f"{name}_mask")
        if masked is not None and f"{name}_orig" in state and masked.shape == parameter.shape:
            path, _, key = name.rpartition(".")
            prune.custom_from_mask(model.get_submodule(path), key, masked)


def check_form(model: nn.Module) -> None:
    """Make sure that every parameter and buffer exists, in a type that can be worked with.

    Raises:
        UnsupportedModelError: lazy, on the meta device, or of half precision.
    """
    named = (*model.named_parameters(), *model.named_buffers())
    for name, tensor in named:
        if is_lazy(tensor):
            raise UnsupportedModelError(
                f"the model's {name} has no shape yet (a lazy layer)",
                "run the model once in the factory, or give the layer its number of inputs",
            )
        if tensor.is_meta:
            raise UnsupportedModelError(
                f"the model's {name} is on the meta device and holds no values",
                "build the model on the CPU",
            )
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise UnsupportedModelError(
                f"the model's {name} is {str(tensor.dtype).removeprefix('torch.')}",
                'return model.float() from the factory; [export] precision = "int8" makes it small',
            )


def check_finite(model: nn.Module) -> None:
    """Make sure that no weight is NaN or infinite, nor any statistic of BatchNorm.

    Other buffers may hold infinity, as causal masks do, but not NaN.

    Raises:
        WeightsError: one is.
    """
    check_form(model)
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, BATCHNORMS):
            weights |= {f"{path}.{name}".lstrip(".") for name, _ in module.named_buffers()}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        bad = ~torch.isfinite(tensor) if name in weights else torch.isnan(tensor)
        if bool(bad.any()):
            what = "NaN or infinite" if name in weights else "NaN"
            raise WeightsError(
                f"model.weights: {name} holds {int(bad.sum())} {what} values of {tensor.numel()}",
                "train again or restore a good checkpoint: nothing can be measured on such a model",
            )
