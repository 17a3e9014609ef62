"""C code for a microcontroller from an int8 ONNX model."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import UsageError
from edgeprune.export import cmsis_nn, dsp_kernels
from edgeprune.export.arena import Memory, plan_memory
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.integer_operators import Alias, IntegerGraph, Operator, Tensor, macs
from edgeprune.export.kernel import Kernel
from edgeprune.export.lowering import Kernels, lower
from edgeprune.records import CSource, LayerFunction, QuantizedTensor, Target
from edgeprune.store import output_error

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "c_templates"
FREESTANDING = Path(__file__).parent / "freestanding"  # headers for compilers without a C library
KERNELS = "edgeprune_kernels.h"
FREESTANDING_HEADERS = ("math.h", "string.h")
CANARY_BYTES = 16
STATUS_BYTES = 4  # what the kernels of CMSIS-NN returned
PROCESSORS = {
    "scalar": "processors without DSP extension (Cortex-M0, M3) and hosts",
    "dsp": "processors with DSP extension (Cortex-M4, M7, M33)",
    "mve": "processors with MVE (Cortex-M55, M85)",
}
# What the README compiles for: a core, and how gcc and zig are called for it.
EXAMPLES = {
    "scalar": {
        "core": "a Cortex-M3",
        "gcc": "-mcpu=cortex-m3 -mthumb",
        "zig": "-target thumb-freestanding-eabi -mcpu=cortex_m3",
    },
    "dsp": {
        "core": "a Cortex-M4 with FPU",
        "gcc": "-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard",
        "zig": "-target thumb-freestanding-eabihf -mcpu=cortex_m4+vfp4d16sp",
    },
    "mve": {
        "core": "a Cortex-M55",
        "gcc": "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard",
        "zig": "-target thumb-freestanding-eabihf -mcpu=cortex_m55+fp_armv8d16+mve_fp",
    },
}
WIDTH = 100  # columns of the tables of constants


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
    memory = plan_memory(graph)
    steps = [operator for operator in graph.operators if not isinstance(operator, Alias)]
    calls = [lower(operator, graph, target, kernels) for operator in steps]
    functions = sorted({function for call in calls for function in call.functions})
    library = cmsis_nn.select(cmsis_nn.find(cmsis), functions) if functions else None
    source = _describe(name, target, folder, graph, memory, steps, calls, library)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
            partial = Path(parent) / folder.name
            partial.mkdir()
            _write(partial, source, graph, memory, steps, calls, library, title)
            if folder.exists():
                folder.rename(Path(parent) / "previous")
            partial.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    return source


def _describe(
    name: str,
    target: Target,
    folder: Path,
    graph: IntegerGraph,
    memory: Memory,
    steps: list[Operator],
    kernels: list[Kernel],
    library: cmsis_nn.Library | None,
) -> CSource:
    scratch = max((kernel.scratch for kernel in kernels), default=0)
    own = (KERNELS, *(dsp_kernels.SOURCES if _uses_dsp(kernels) else ()))
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
        for index, (operator, kernel) in enumerate(zip(steps, kernels, strict=True))
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
        scratch_bytes=scratch,
        state_bytes=CANARY_BYTES * (2 if scratch else 1) + (STATUS_BYTES if library else 0),
        weight_bytes=sum(function.weight_bytes for function in functions),
        lifetimes=memory.lifetimes,
    )


def _write(
    folder: Path,
    source: CSource,
    graph: IntegerGraph,
    memory: Memory,
    steps: list[Operator],
    kernels: list[Kernel],
    library: cmsis_nn.Library | None,
    model: str,
) -> None:
    for file, path in (*library.sources, *library.headers, *library.licences) if library else ():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / path)
    if library:
        shutil.copytree(FREESTANDING, folder / FREESTANDING.name)
    for own in (KERNELS, *dsp_kernels.SOURCES):
        if own in (*source.sources, *source.headers):
            shutil.copyfile(TEMPLATES / own, folder / own)
    numbers = list(enumerate(zip(steps, kernels, source.functions, strict=True)))
    layers = [
        _layer(source, graph, memory, index, step, kernel, function)
        for index, (step, kernel, function) in numbers
    ]
    arrays = [
        {
            "comment": f"{function.layer} ({function.operator}): {constant.role}",
            "ctype": constant.ctype,
            "name": _array(source.name, index, constant.role),
            "count": constant.values.size,
            "lines": _lines(constant.values),
        }
        for index, (_, kernel, function) in numbers
        for constant in kernel.constants
    ]
    context = {
        **source.model_dump(exclude={"input", "output", "functions", "lifetimes"}),
        "model": model,
        "target_text": PROCESSORS[source.target],
        "example": EXAMPLES[source.target],
        "arguments": _arguments(source),
        "cmsis": "4.0" if library else "",
        "dsp": _uses_dsp(kernels),
        "pointers": max((kernel.pointers for kernel in kernels), default=0),
        "input": _border_text(source.input),
        "output": _border_text(source.output),
        "layers": layers,
        "arrays": arrays,
        "input_offset": memory.offsets[graph.input],
        "output_offset": memory.offsets[graph.output],
    }
    environment = _environment()
    for template, path in (
        ("network.c.j2", f"{source.name}.c"),
        ("network.h.j2", f"{source.name}.h"),
        ("weights.h.j2", f"{source.name}_weights.h"),
        ("README.md.j2", "README.md"),
    ):
        macros = environment.get_template("layers.c.j2").module
        text = environment.get_template(template).render(context, kernels=macros)
        (folder / path).write_text(text, encoding="utf-8")


def _arguments(source: CSource) -> str:
    """Return what a compiler is told besides its target, as the README shows it."""
    defines = [f"-D{define}" for define in source.defines]
    includes = [f"-I{folder}" for folder in source.include_dirs]
    output = f"-r -nostdlib -o {source.name}.o"
    return " ".join(["-std=c11 -O3", *defines, *includes, output, *source.sources])


def _layer(
    source: CSource,
    graph: IntegerGraph,
    memory: Memory,
    index: int,
    operator: Operator,
    kernel: Kernel,
    function: LayerFunction,
) -> dict[str, Any]:
    """Return what the templates say of one layer."""
    names = ["input", *(f"input_{number}" for number in range(1, len(operator.inputs)))]
    shapes = (list(function.input_shape), list(function.output_shape))
    places = [_place(graph, memory, tensor) for tensor in (*operator.inputs, operator.output)]
    return {
        "symbol": function.symbol,
        "comment": f"{function.layer}: {function.operator}, {shapes[0]} -> {shapes[1]}",
        "parameters": ", ".join([*(f"const int8_t *{name}" for name in names), "int8_t *output"]),
        "call": ", ".join(places),
        "macro": kernel.macro,
        "arguments": kernel.arguments,
        "constants": {c.role: _array(source.name, index, c.role) for c in kernel.constants},
        "scratch": {
            "pointer": "memory.scratch" if kernel.scratch else "NULL",
            "bytes": kernel.scratch,
        },
    }


def _place(graph: IntegerGraph, memory: Memory, name: str) -> str:
    """Return the C expression for a tensor's address inside `infer`."""
    offset = memory.offsets[name]
    if memory.owner[name] == memory.owner[graph.input]:
        return "input"
    if memory.owner[name] == memory.owner[graph.output]:
        return "output"
    return f"memory.arena + {offset}"


def _uses_dsp(kernels: list[Kernel]) -> bool:
    return any(kernel.macro.startswith("dsp_") for kernel in kernels)


def _symbol(name: str, index: int, operator: Operator) -> str:
    layer = re.sub(r"\W+", "_", f"{operator.layer}_{operator.kind}").strip("_").lower()
    return f"{name}_layer_{index:03d}_{layer}"


def _array(name: str, index: int, role: str) -> str:
    return f"{name}_{index:03d}_{role}"


def border(tensor: Tensor) -> QuantizedTensor:
    """Return an input or output of a network as the C code holds it."""
    rank = len(tensor.shape)
    permutation = (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))
    return QuantizedTensor(
        name=tensor.name.removesuffix("_QuantizeLinear_Output"),
        shape=tensor.shape,
        permutation=permutation,
        scale=tensor.scale,
        zero_point=tensor.zero_point,
    )


def _border_text(tensor: QuantizedTensor) -> dict[str, Any]:
    axes = {2: ("batch", "features"), 3: ("batch", "channels", "length")}.get(
        len(tensor.shape), ("batch", "channels", "height", "width")
    )
    order = [f"{axes[axis]} {tensor.shape[axis]}" for axis in tensor.permutation if axis]
    return {
        "label": tensor.name,
        "text": f"int8[{']['.join(str(tensor.shape[a]) for a in tensor.permutation if a)}]"
        f" ({', '.join(order)})",
        "bytes": int(np.prod(tensor.shape)),
        "scale": f"{tensor.scale:.9g}",
        "zero_point": tensor.zero_point,
    }


def _lines(values: NDArray[Any]) -> Iterator[str]:
    """Break the values of an array into lines of C."""
    line, formats = "", {"uint32": "0x{:08x}u", "float32": "{:.8e}f"}
    for value in values.ravel().tolist():
        text = formats.get(str(values.dtype), "{}").format(value)  # 9 digits: exact
        if len(line) + len(text) + 2 > WIDTH - 4:
            yield line
            line = ""
        line = f"{line}, {text}" if line else text
    yield line


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
