"""Hashes of code: of what a job's functions and objects do, not of where they lie in memory."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import operator
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.data import Data

DEPTH = 5  # of objects that hold objects
LARGEST = 1_000_000  # values of a tensor that are looked at; of a larger one, the first
INSTALLED = tuple(sysconfig.get_paths().values())  # where nobody changes code between two runs
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, enum.Enum)


def code_digest(model: nn.Module, data: Data) -> str:
    """Return a hash of the source of the model's classes, of the data's, of loss and metric.

    Of the user's modules, of loss and metric it covers what they hold and refer to as well: parts
    of modules and partial functions, attributes of objects, closures, globals of their files. What
    has no source (compiled code, a console) enters with its name only.
    """
    things = {type(module) for module in model.modules()} | {type(p) for p in data.parts().values()}
    texts = [_source(thing) for thing in things]
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not type(module).__module__.startswith("torch."):
            own = (("", _methods(type(module))), ("", _attributes(module)))
            held = (text for _, part in own for text in _parts(part, seen))
            texts.append("\n".join((name, *held)))
    for judge in (data.loss, data.metric):
        texts.append("\n".join(_parts(getattr(judge, "__wrapped__", judge), set())))
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def factory_digest(factory: str) -> str:
    """Return a hash of what the source of "module:function" is, and of what it refers to.

    As for loss and metric. Of what was never imported, as models and data in memory, it is that of
    nothing.
    """
    module, _, name = factory.partition(":")
    try:
        function = operator.attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
        function = None
    return hashlib.sha256("\n".join(_parts(function, set())).encode()).hexdigest()


def _methods(kind: type) -> dict[str, Any]:
    """Return the functions of a class of modules and of its bases, up to torch's own."""
    user = [one for one in kind.__mro__ if not one.__module__.startswith(("torch.", "builtins"))]
    return {
        f"{one.__qualname__}.{name}": part
        for one in user
        for name, part in vars(one).items()
        if inspect.isfunction(part)
    }


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module holds besides parameters, buffers and modules, and its mode."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training"
    }


def _source(thing: Any) -> str:
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing))}"
    try:
        return name + ("" if name.startswith("torch.") else inspect.getsource(thing))
    except (OSError, TypeError):
        return name


def _parts(thing: Any, seen: set[int], depth: int = DEPTH) -> Iterator[str]:
    """Yield texts that tell `thing` from another one of the same kind."""
    if isinstance(thing, PLAIN):
        yield repr(thing)
    elif isinstance(thing, Tensor):
        values = thing.detach().flatten()[:LARGEST].cpu().contiguous()
        digest = hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()
        yield f"{thing.dtype} {tuple(thing.shape)} {digest}"
    elif isinstance(thing, np.ndarray) and thing.dtype != object:
        taken = np.ascontiguousarray(thing.reshape(-1)[:LARGEST])
        yield f"{thing.dtype} {thing.shape} {hashlib.sha256(taken.tobytes()).hexdigest()}"
    elif id(thing) in seen or not depth:
        yield type(thing).__qualname__
    else:
        seen.add(id(thing))
        for name, part in _inside(thing):
            yield name
            yield from _parts(part, seen, depth - 1)


def _inside(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of something compound, by name."""
    if isinstance(thing, type):
        yield _source(thing), None
    elif isinstance(thing, functools.partial):
        yield from (("partial", thing.func), ("", thing.args), ("", thing.keywords))
    elif inspect.ismethod(thing):
        yield from ((thing.__name__, thing.__func__), ("of", thing.__self__))
    elif inspect.isfunction(thing):
        yield _source(thing), thing.__defaults__
        yield "", thing.__kwdefaults__
        yield "wraps", getattr(thing, "__wrapped__", None)
        if not thing.__code__.co_filename.startswith(INSTALLED):
            yield from _sorted({**_globals(thing), **inspect.getclosurevars(thing).nonlocals})
    elif inspect.ismodule(thing) or inspect.isbuiltin(thing):
        yield getattr(thing, "__name__", ""), None
    elif isinstance(thing, Mapping):
        yield from _sorted(thing)
    elif isinstance(thing, list | tuple):
        yield from (("", part) for part in thing)
    elif isinstance(thing, set | frozenset):
        yield " ".join(sorted(map(repr, thing))), None
    elif isinstance(thing, nn.Module):
        yield _source(type(thing)) + repr(thing), None
        yield from _sorted(thing.state_dict())
        yield from _sorted(_attributes(thing))
    else:
        yield _source(type(thing)), None
        yield from _sorted(getattr(thing, "__dict__", {}))


def _globals(function: Any) -> dict[str, Any]:
    """Return the globals that a function names, its lambdas and comprehensions included."""
    found: dict[str, Any] = {}
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [part for part in code.co_consts if inspect.iscode(part)]
        known = function.__globals__
        found |= {name: known[name] for name in code.co_names if name in known}
    return found


def _sorted(held: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    return iter(sorted(((str(name), part) for name, part in held.items()), key=lambda one: one[0]))
