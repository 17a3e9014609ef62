"""The microcontroller as a device: C code, firmware, emulation, exact instructions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeprune.devices.microcontroller import emulate as unicorn
from edgeprune.devices.microcontroller import qemu
from edgeprune.devices.microcontroller.build import Firmware, build
from edgeprune.devices.microcontroller.counting import Counts
from edgeprune.devices.microcontroller.emulation import Job, Outcome
from edgeprune.devices.microcontroller.sources import (
    Sources,
    is_integer,
    write_joined,
    write_sources,
)
from edgeprune.devices.microcontroller.toolchain import compiler_obstacle, toolchain
from edgeprune.devices.processes import end_all
from edgeprune.devices.protocol import (
    Answer,
    ModelAnswer,
    ModelFile,
    NodeCosts,
    Obstacle,
    Request,
)
from edgeprune.errors import DataError, DeviceError
from edgeprune.export.cmsis_nn import EXTRA
from edgeprune.faults import every_key
from edgeprune.records import DeviceSpec, Environment, Microcontroller

GRACE_SECONDS = 120.0  # for the start of the emulator, on top of the request's deadline
AT_ONCE = 8  # models that one emulator process takes
JOINED, JOINED_BYTES = 24, 1 << 20  # models, and bytes of their files, that share one firmware
GENERATING = threading.Lock()  # the writers of C code are not made for threads
Array = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Built(NamedTuple):
    """A model's firmware and the seconds it took to make."""

    name: str
    firmware: Firmware
    seconds: float


@dataclass(frozen=True)
class MicrocontrollerDevice:
    """A core in an emulator. Figures repeat exactly; one run gives them."""

    spec: DeviceSpec

    def ask(self, request: Request) -> Answer:
        """Build firmware of every model and emulate it.

        Tasks `time` and `layers` run one inference on seeded random inputs and give its
        instructions (once, however many rounds are asked for), `layers` those of every layer too;
        `run` gives the outputs that the firmware computes, as many as it makes in time. Joined int8
        models share one firmware: only the instructions of their layers are told, which differ from
        those of firmware of their own by the few that load addresses.

        Raises:
            UnsupportedModelError: a model cannot become firmware for this core.
            DeviceError: compiler, emulator or firmware fail, or a canary is broken.
            DeadlineError: an emulation does not end in time.
        """
        environment = self._environment()
        seconds = request.deadline_seconds + GRACE_SECONDS
        stopped = False
        if request.task == "run":
            answer, stopped = self._outputs(request, seconds)
            answers = [answer]
        elif request.joined and all(is_integer(Path(model.file)) for model in request.models):
            groups = _groups(request.models)
            found = _in_parallel(lambda group: self._joined(group, request, seconds), groups)
            answers = [answer for part in found for answer in part]
        else:
            parts = [
                request.models[i : i + AT_ONCE] for i in range(0, len(request.models), AT_ONCE)
            ]
            answers = [
                answer
                for part in _in_parallel(lambda part: self._counted(part, request, seconds), parts)
                for answer in part
            ]
        return Answer(
            stopped="time" if stopped else "fixed", models=tuple(answers), environment=environment
        )

    @property
    def chip(self) -> Microcontroller:
        """The core; profiles without one are refused when they are read."""
        assert self.spec.microcontroller is not None
        return self.spec.microcontroller

    @property
    def _machine(self) -> str:
        """The memory layout that firmware is linked for."""
        return self.chip.machine if self.chip.emulator == "qemu" else unicorn.MACHINE

    def _counted(
        self, models: Sequence[ModelFile], request: Request, seconds: float
    ) -> list[ModelAnswer]:
        built = [self._build(model) for model in models]
        jobs = [
            Job(b.name, b.firmware, _random(b.firmware.sources, request.seed), True) for b in built
        ]
        outcomes = self._emulate(jobs, seconds)
        detailed = request.task == "layers"
        return [_answer(b, o, detailed) for b, o in zip(built, outcomes, strict=True)]

    def _joined(
        self, models: Sequence[ModelFile], request: Request, seconds: float
    ) -> list[ModelAnswer]:
        """Count the layers of several int8 models in one firmware."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            paths = [Path(model.file) for model in models]
            with GENERATING:
                sources, sizes = write_joined(paths, Path(scratch, "code"), self.chip)
            name = f"{models[0].name} and {len(models) - 1} more" if sizes[1:] else models[0].name
            firmware = build(sources, self.chip, self._machine, name)
        share = (time.monotonic() - started) / len(models)
        job = Job(name, firmware, _random(sources, request.seed), True)
        counts = self._emulate([job], seconds)[0].counts
        assert counts is not None
        nodes = iter(_layer_costs(sources, counts))
        own = [list(itertools.islice(nodes, size)) for size in sizes]
        # A model of reshapes alone executes nothing.
        nothing = [NodeCosts(name=sources.infer, operator=None, provider="firmware", values=(0.0,))]
        return [
            ModelAnswer(name=model.name, load_seconds=share, nodes=tuple(found or nothing))
            for model, found in zip(models, own, strict=True)
        ]

    def _outputs(self, request: Request, seconds: float) -> tuple[ModelAnswer, bool]:
        """Write the outputs of the first calls, and tell whether time ran out before the last."""
        if request.inputs is None or request.outputs is None:
            raise DeviceError("the task run needs files of inputs and outputs")
        built = self._build(request.models[0])
        sources = built.firmware.sources
        calls, count = _calls(sources, Path(request.inputs))
        parts = [calls[i :: _processors()] for i in range(min(_processors(), len(calls)))]
        jobs = [
            Job(built.name, built.firmware, b"".join(part), False, request.deadline_seconds)
            for part in parts
        ]
        outcomes = _in_parallel(lambda job: self._emulate([job], seconds)[0], jobs)
        # In the order of the calls, which went to the processors in turn; those behind a gap are
        # computed again.
        turns = itertools.zip_longest(*(outcome.outputs for outcome in outcomes))
        made = list(itertools.takewhile(lambda data: data is not None, itertools.chain(*turns)))
        rows = [sources.decode(data) for data in made]
        stopped = len(rows) < len(calls) and any(outcome.stopped for outcome in outcomes)
        if len(rows) != len(calls) and not stopped:
            raise DeviceError(f"{built.name}: {len(rows)} outputs for {len(calls)} inputs")
        target = Path(request.outputs)
        unfinished = target.with_name(target.name + ".partial.npy")
        np.save(unfinished, np.concatenate(rows)[:count])
        unfinished.replace(target)
        footprint = built.firmware.footprint(
            max(o.stack_bytes for o in outcomes), max(o.scratch_bytes for o in outcomes)
        )
        answer = ModelAnswer(
            name=built.name, load_seconds=built.seconds, made=len(rows), footprint=footprint
        )
        return answer, stopped

    def _build(self, model: ModelFile) -> Built:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            with GENERATING:
                sources = write_sources(Path(model.file), Path(scratch, "code"), self.chip)
            firmware = build(sources, self.chip, self._machine, model.name)
        return Built(model.name, firmware, time.monotonic() - started)

    def _emulate(self, jobs: Sequence[Job], seconds: float) -> list[Outcome]:
        if self.chip.emulator == "qemu":
            return qemu.emulate(self.chip, jobs, seconds)
        return unicorn.emulate(self.chip, jobs, seconds)

    def _environment(self) -> Environment:
        chip = self.chip
        tools = toolchain(chip)
        engine = qemu if chip.emulator == "qemu" else unicorn
        facts = {
            "core": chip.cpu,
            "floating_point": chip.fpu,
            "kernels": chip.target,
            "compiler": tools.version,
            "flags": " ".join(tools.flags),
            "emulator": engine.emulator_version(),
            "cmsis_nn": "tree of the profile" if chip.cmsis else _version("bakenn"),
            "float_code": _version("emx-onnx-cgen"),
            "edgeprune": importlib.metadata.version("edgeprune"),
        }
        if chip.cycles_per_instruction is not None:
            facts["cycles_per_instruction"] = (
                f"{chip.cycles_per_instruction:g} (unvalidated indication)"
            )
        # The version of edgeprune counts: its generator writes the int8 code.
        comparable = tuple(name for name in facts if name != "cycles_per_instruction")
        return Environment(facts=facts, comparable=comparable)


def obstacle(spec: DeviceSpec) -> Obstacle | None:
    """Return what keeps this machine from building or emulating firmware, or None."""
    chip = spec.microcontroller
    if chip is None:
        return Obstacle("its profile has no section [microcontroller]", every_key("devices.md"))
    if chip.emulator == "unicorn" and chip.cpu not in unicorn.CORES:
        return Obstacle(f"unicorn has no {chip.cpu}", '[microcontroller] emulator = "qemu"')
    if importlib.util.find_spec("elftools") is None:
        return Obstacle("the package pyelftools is not installed", EXTRA)
    engine = qemu if chip.emulator == "qemu" else unicorn
    return compiler_obstacle(chip) or engine.emulator_obstacle()


def tools_of(spec: DeviceSpec) -> str:
    """Return compiler and emulator of a device that has no obstacle."""
    assert spec.microcontroller is not None
    engine = qemu if spec.microcontroller.emulator == "qemu" else unicorn
    return f"{toolchain(spec.microcontroller).version}, {engine.emulator_version()}"


def _answer(built: Built, outcome: Outcome, detailed: bool) -> ModelAnswer:
    counts = outcome.counts
    assert counts is not None
    sources = built.firmware.sources
    nodes = _layer_costs(sources, counts)
    nodes.append(
        NodeCosts(
            name=sources.infer, operator=None, provider="firmware", values=(float(counts.infer),)
        )
    )
    footprint = built.firmware.footprint(outcome.stack_bytes, outcome.scratch_bytes)
    return ModelAnswer(
        name=built.name,
        load_seconds=built.seconds,
        values=(float(counts.total),),
        nodes=tuple(nodes) if detailed else (),
        runs=(float(counts.total),) if detailed else (),
        peak_bytes=footprint.ram_bytes,
        footprint=footprint,
    )


def _layer_costs(sources: Sources, counts: Counts) -> list[NodeCosts]:
    return [
        NodeCosts(name=layer.name, operator=layer.operator, provider="firmware", values=(float(n),))
        for layer, n in zip(sources.layers, counts.layers, strict=True)
    ]


def _groups(models: Sequence[ModelFile]) -> list[list[ModelFile]]:
    """Split `models` so that each part is small enough for one firmware."""
    groups: list[list[ModelFile]] = []
    room = 0
    for model in models:
        size = Path(model.file).stat().st_size
        if not groups or size > room or len(groups[-1]) == JOINED:
            groups.append([])
            room = JOINED_BYTES
        groups[-1].append(model)
        room -= size
    return groups


def _random(sources: Sources, seed: int) -> bytes:
    """Return the bytes of one call with seeded inputs, drawn as profiler/worker.py draws them."""
    generator = np.random.default_rng(seed)
    arrays = [generator.standard_normal(b.shape).astype(np.float32) for b in sources.inputs]
    return sources.encode(arrays)


def _calls(sources: Sources, path: Path) -> tuple[list[bytes], int]:
    """Return the input bytes of every call, and the number of samples, of an .npz file."""
    with np.load(path, allow_pickle=False) as arrays:
        missing = [border.name for border in sources.inputs if border.name not in arrays]
        if missing:
            raise DataError(f"{path.name} has no array {', '.join(missing)}")
        columns = [np.asarray(arrays[border.name]) for border in sources.inputs]
    batch, count = sources.inputs[0].shape[0], len(columns[0])
    calls = []
    for start in range(0, count, batch):
        chunk = [column[start : start + batch] for column in columns]
        short = batch - len(chunk[0])
        if short:  # the last call is filled up with copies, which are dropped again
            chunk = [np.concatenate([c, np.repeat(c[-1:], short, axis=0)]) for c in chunk]
        calls.append(sources.encode(chunk))
    return calls, count


def _in_parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `work` of every item, in order; the first error ends it."""
    with ThreadPoolExecutor(max_workers=_processors()) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            end_all()
            raise


def _processors() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
