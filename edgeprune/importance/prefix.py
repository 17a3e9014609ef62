"""What runs before the layers that a cut changes: computed once, and skipped in cut models.

A narrower group changes nothing of what the model computes before the first of its layers. The
outputs of the modules that end before it are kept, batch by batch, and given back instead of being
computed again. Kept is only what is used by something that still runs. A prefix counts only
if a cut model, shortened by it, gives the same outputs on all batches, to the bit: state that
modules hand to each other behind the graph's back would show there.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgeprune.data import call
from edgeprune.errors import InternalCheckError
from edgeprune.recovery.batchnorm import NORMS, recalibrate

Inputs = tuple[Tensor, ...]
Key = tuple[bool, int]  # whether statistics are taken, and which input it is
Shapes = dict[str, list[torch.Size]]
CGROUP = Path("/sys/fs/cgroup")
MEMORY = 0.25  # of what is free: more is not kept


class Prefixes:
    """Shortens cut models by what they share with the dense one.

    Args:
        dense: the model before any cut, with BatchNorm statistics as they are after recalibration.
        statistics: batches that recalibration runs on, [samples, ...] each.
        measured: batches that the loss is taken on. Shortened models are for these very tensors
            alone, and refuse others.
    """

    def __init__(
        self, dense: nn.Module, statistics: Sequence[Inputs], measured: Sequence[Inputs]
    ) -> None:
        self._dense, self._statistics, self._measured = dense, statistics, measured
        self._shapes = _shapes(dense)
        self._calls = _calls(dense, measured[0])
        self._kept: _Kept | None = None  # of one prefix: groups come in turn

    def shorten(self, candidate: nn.Module) -> None:
        """Let `candidate`, a cut copy of the dense model, skip what comes before its cut.

        Where that cannot be done, or is not the same, nothing is changed.
        """
        chosen = self._chosen(candidate)
        if self._kept is None or self._kept.chosen != chosen:
            self._kept = None  # frees its memory first
            self._kept = self._take(chosen, candidate)
        if self._kept.outputs:
            self._kept.attach(candidate)

    def _chosen(self, candidate: nn.Module) -> tuple[str, ...]:
        """Return the outermost modules that end before the first one that `candidate` changes."""
        shapes = _shapes(candidate)
        if shapes.keys() != self._shapes.keys():
            return ()
        changed = [name for name, of in shapes.items() if of != self._shapes[name]]
        if not changed or any(name not in self._calls for name in changed):
            return ()
        first = min(self._calls[name].start for name in changed)
        before = {n for n, made in self._calls.items() if made.end < first and made.skippable}
        return tuple(name for name in self._calls if name in before and not _inside(name, before))

    def _take(self, chosen: tuple[str, ...], candidate: nn.Module) -> _Kept:
        """Return the outputs that are needed; none where that is not the same, or too much."""
        nothing = _Kept(chosen)
        if not chosen:
            return nothing
        used, size = _used(self._dense, self._measured[0], chosen)
        samples = sum(len(x[0]) for x in (*self._statistics, *self._measured))
        free = MEMORY * available_memory()
        if size / len(self._measured[0][0]) * samples > free:
            return nothing
        inputs = {id(x[0]): x[0] for x in (*self._statistics, *self._measured)}
        kept = _Kept(chosen, used=used, inputs=inputs, room=free)
        try:
            plain = self._run(candidate, kept.record)
            short = self._run(candidate, kept.attach)
        except Exception:  # noqa: BLE001 - foreign code that looks at an empty tensor raises anything
            return nothing
        return kept if all(map(torch.equal, plain, short)) else nothing

    def _run(self, model: nn.Module, prepare: Callable[[nn.Module], object]) -> list[Tensor]:
        """Return the outputs of a copy of `model` that `prepare` was given."""
        model = copy.deepcopy(model)
        prepare(model)
        recalibrate(model, self._statistics)
        model.eval()
        with torch.inference_mode():
            return [call(model, x) for x in self._measured]


@dataclass
class _Call:
    """When a module began and ended, in counted events, and whether it can be skipped."""

    start: int
    end: int = -1
    skippable: bool = False


@dataclass
class _Kept:
    """Outputs of modules by batch; those that nothing uses are left empty."""

    chosen: tuple[str, ...]
    used: frozenset[str] = frozenset()
    inputs: Mapping[int, Tensor] = field(default_factory=dict)  # by identity, and so kept alive
    room: float = 0.0  # bytes
    outputs: dict[Key, dict[str, Tensor]] = field(default_factory=dict)
    _attached: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet)

    def record(self, model: nn.Module) -> None:
        """Let `model` leave the outputs here.

        Raises:
            MemoryError: there are more than there is room for.
        """
        at = _Batch(model, self.inputs)
        for name in self.used:
            module = model.get_submodule(name)
            module.register_forward_hook(self._recorder(name, at))
        self.outputs = {}

    def _recorder(self, name: str, at: _Batch) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            if at.key is None:
                return
            self.room -= output.numel() * output.element_size()
            if self.room < 0:
                raise MemoryError
            self.outputs.setdefault(at.key, {})[name] = output.detach().clone()

        return hook

    def attach(self, model: nn.Module) -> None:
        """Let `model` take the outputs from here; a model that does already stays as it is."""
        if model in self._attached:
            return
        self._attached.add(model)
        at = _Batch(model, self.inputs)
        for name in self.chosen:
            module = model.get_submodule(name)
            module.forward = self._giver(name, at)

    def _giver(self, name: str, at: _Batch) -> Callable[..., Tensor]:
        def forward(*_: Any, **__: Any) -> Tensor:
            if at.key is None:  # its statistics before the cut are not those of the dense model
                raise InternalCheckError("a shortened model was given a batch that is not known")
            if name not in self.used:
                return torch.empty(0)
            return self.outputs[at.key][name].clone()  # what comes next may write into it

        return forward


class _Batch:
    """Says which of the `inputs` a model is at work on, before any hook of the user's own."""

    def __init__(self, model: nn.Module, inputs: Mapping[int, Tensor]) -> None:
        self.key: Key | None = None
        norms = [module for module in model.modules() if isinstance(module, NORMS)]

        def look(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            known = args and id(args[0]) in inputs
            self.key = (any(norm.training for norm in norms), id(args[0])) if known else None

        model.register_forward_pre_hook(look, prepend=True)


class _Uses(TorchFunctionMode):
    """Finds which outputs of modules anything computes with, except those modules themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0
        self.used: set[str] = set()
        self.made: dict[int, tuple[Tensor, set[str]]] = {}  # by identity, and so kept alive

    def enter(self, *_: object) -> None:
        self.inside += 1

    def leave(self, name: str, output: Tensor) -> None:
        self.inside -= 1
        self.made.setdefault(id(output), (output, set()))[1].add(name)

    def see(self, value: object) -> None:
        for tensor in _tensors(value):
            self.used |= self.made.get(id(tensor), (None, set()))[1]

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if not self.inside:
            self.see([*args, *(kwargs or {}).values()])
        return func(*args, **(kwargs or {}))


def _used(dense: nn.Module, inputs: Inputs, chosen: Sequence[str]) -> tuple[frozenset[str], int]:
    """Return those of the `chosen` modules whose outputs are used by others, and their bytes."""
    model, uses = copy.deepcopy(dense).eval(), _Uses()
    for name in chosen:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(uses.enter)
        module.register_forward_hook(lambda _, __, output, name=name: uses.leave(name, output))
    with torch.inference_mode(), uses:
        output = model(*inputs)
    uses.inside = 0
    uses.see(output)
    kept = [tensor for tensor, names in uses.made.values() if names & uses.used]
    return frozenset(uses.used), sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _calls(dense: nn.Module, inputs: Inputs) -> dict[str, _Call]:
    """Return when each module that runs begins and ends, in the order in which they begin."""
    model, calls, events = copy.deepcopy(dense).eval(), dict[str, _Call](), 0

    def begin(name: str) -> None:
        nonlocal events
        events += 1
        if name in calls:
            calls[name].skippable = False
        else:
            calls[name] = _Call(events, skippable=True)

    def end(name: str, output: object) -> None:
        nonlocal events
        events += 1
        calls[name].end = events
        calls[name].skippable &= isinstance(output, Tensor)

    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda _, __, name=name: begin(name))
        module.register_forward_hook(lambda _, __, output, name=name: end(name, output))
    with torch.inference_mode():
        model(*inputs)
    return calls


def _shapes(model: nn.Module) -> Shapes:
    """Return name -> shapes of what each module holds itself."""
    return {
        name: [
            tensor.shape
            for own in (module.parameters(recurse=False), module.buffers(recurse=False))
            for tensor in own
        ]
        for name, module in model.named_modules()
    }


def _inside(name: str, others: set[str]) -> bool:
    """Whether one of `others` holds the module `name`."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in others for count in range(len(parts)))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def available_memory() -> int:
    """Return the bytes that are free: of this machine, and of this container if it has a limit."""
    free: int = psutil.virtual_memory().available
    try:
        limit, taken = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, max(0, int(limit) - int(taken)))
    except (OSError, ValueError):  # no such limit ("max"), or another kind of container
        return free
