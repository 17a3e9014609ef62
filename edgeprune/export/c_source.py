"""C code for a microcontroller from an int8 ONNX model."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from edgeprune.errors import UsageError
from edgeprune.export import cmsis_nn, dsp_kernels
from edgeprune.export.arena import plan_memory
from edgeprune.export.c_text import FREESTANDING, write_files
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.integer_operators import Alias, IntegerGraph, Operator, macs
from edgeprune.export.lowering import Kernels, lower
from edgeprune.export.program import KERNELS, Program
from edgeprune.export.tensors import border
from edgeprune.records import CSource, LayerFunction, Target
from edgeprune.store import output_error

FREESTANDING_HEADERS = ("math.h", "string.h")
CANARY_BYTES = 16
STATUS_BYTES = 4  # what the kernels of CMSIS-NN returned


def generate(
    model: Path,
    folder: Path,
    *,
    name: str,
    target: Target,
    cmsis: Path | None = None,
    kernels: Kernels = "edgeprune",
) -> CSource:
    """Write the C code of the int8 QDQ `model` into `folder` (replaced whole).

    `name` prefixes every symbol. `target` says which kernels the compiler will choose: "scalar"
    (Cortex-M0, M3, hosts), "dsp" (M4, M7, M33 with DSP) or "mve" (M55); the scratch is sized for
    it, and the code refuses to compile for another. `cmsis` is a CMSIS-NN tree (with Include and
    Source); None takes the copy of the package bakenn. `kernels` "edgeprune" takes our own
    convolutions where there are some (for "dsp"), "cmsis_nn" those of CMSIS-NN everywhere.

    Ensures: the same files for the same model; no heap, no library but CMSIS-NN and libc headers.

    Raises:
        UsageError: `name` is not a C identifier.
        UnsupportedModelError: an operator has no integer kernel; names the layer and a way out.
        DeviceError: no CMSIS-NN is to be found.
        OutputError: the folder cannot be written.
    """
    graph = read_integer_graph(model)
    return generate_graph(
        graph, folder, name=name, target=target, cmsis=cmsis, kernels=kernels, title=model.name
    )


def generate_graph(
    graph: IntegerGraph,
    folder: Path,
    *,
    name: str,
    target: Target,
    title: str,
    cmsis: Path | None = None,
    kernels: Kernels = "edgeprune",
) -> CSource:
    """Write the C code of `graph`, as `generate` does; `title` says in it what it comes from."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(f"{name!r} cannot name C code", "use lower-case letters, digits and _")
    steps = tuple(op for op in graph.operators if not isinstance(op, Alias))
    calls = tuple(lower(operator, graph, target, kernels) for operator in steps)
    functions = sorted({function for call in calls for function in call.functions})
    library = cmsis_nn.select(cmsis_nn.find(cmsis), functions) if functions else None
    program = Program(graph, plan_memory(graph), steps, calls, library)
    source = _describe(name, target, folder, program)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
            partial = Path(parent) / folder.name
            partial.mkdir()
            write_files(partial, source, program, title)
            if folder.exists():
                folder.rename(Path(parent) / "previous")
            partial.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    return source


def _describe(name: str, target: Target, folder: Path, program: Program) -> CSource:
    graph, memory, library = program.graph, program.memory, program.library
    own = (KERNELS, *(dsp_kernels.SOURCES if program.uses_dsp else ()))
    canaries = 2 if program.scratch_bytes else 1
    copied = library or cmsis_nn.Library((), (), (), ())
    functions = tuple(
        LayerFunction(
            symbol=_symbol(name, index, operator),
            layer=operator.layer,
            operator=operator.kind,
            input_shape=graph.tensors[operator.inputs[0]].shape,
            output_shape=graph.tensors[operator.output].shape,
            macs=macs(operator, graph.tensors[operator.output]),
            weight_bytes=sum(constant.bytes for constant in kernel.constants),
            activation_bytes=graph.tensors[operator.output].bytes,
            scratch_bytes=kernel.scratch,
        )
        for index, (operator, kernel) in enumerate(zip(program.steps, program.kernels, strict=True))
    )
    return CSource(
        name=name,
        target=target,
        folder=str(folder),
        sources=(
            f"{name}.c",
            *(file for file in own if file.endswith(".c")),
            *(path for _, path in copied.sources),
        ),
        headers=(
            f"{name}.h",
            f"{name}_weights.h",
            *(file for file in own if file.endswith(".h")),
            *(path for _, path in copied.headers),
            *(f"{FREESTANDING.name}/{name}" for name in FREESTANDING_HEADERS if library),
        ),
        include_dirs=(".", *copied.include_dirs),
        defines=("CMSIS_NN_USE_SINGLE_ROUNDING",) if library else (),
        documents=("README.md", *(path for _, path in copied.licences)),
        functions=functions,
        input=border(graph.tensors[graph.input]),
        output=border(graph.tensors[graph.output]),
        arena_bytes=memory.arena_bytes,
        liveness_bytes=memory.liveness_bytes,
        scratch_bytes=program.scratch_bytes,
        state_bytes=canaries * CANARY_BYTES + (STATUS_BYTES if library else 0),
        weight_bytes=sum(function.weight_bytes for function in functions),
        lifetimes=memory.lifetimes,
    )


def _symbol(name: str, index: int, operator: Operator) -> str:
    layer = re.sub(r"\W+", "_", f"{operator.layer}_{operator.kind}").strip("_").lower()
    return f"{name}_layer_{index:03d}_{layer}"
