"""The files of generated C code: templates filled with a program, and what lies beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.export import dsp_kernels
from edgeprune.export.program import KERNELS, Program
from edgeprune.records import CSource, QuantizedTensor

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "c_templates"
FREESTANDING = Path(__file__).parent / "freestanding"  # headers for compilers without a C library
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


def write_files(folder: Path, source: CSource, program: Program, title: str) -> None:
    """Write the C code of `program` that `source` describes into the existing `folder`.

    `title` says in it what it comes from.
    """
    library = program.library
    for file, path in (*library.sources, *library.headers, *library.licences) if library else ():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / path)
    if library:
        shutil.copytree(FREESTANDING, folder / FREESTANDING.name)
    for own in (KERNELS, *dsp_kernels.SOURCES):
        if own in (*source.sources, *source.headers):
            shutil.copyfile(TEMPLATES / own, folder / own)
    graph, memory = program.graph, program.memory
    context = {
        **source.model_dump(exclude={"input", "output", "functions", "lifetimes"}),
        "model": title,
        "target_text": PROCESSORS[source.target],
        "example": EXAMPLES[source.target],
        "arguments": _arguments(source),
        "cmsis": "4.0" if library else "",
        "dsp": program.uses_dsp,
        "pointers": max((kernel.pointers for kernel in program.kernels), default=0),
        "input": _border(source.input),
        "output": _border(source.output),
        "layers": [_layer(source, program, index) for index in range(len(program.steps))],
        "arrays": list(_arrays(source, program)),
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


def _arrays(source: CSource, program: Program) -> Iterator[dict[str, Any]]:
    """Yield what the templates say of each array of constants."""
    for index, (kernel, function) in enumerate(zip(program.kernels, source.functions, strict=True)):
        for constant in kernel.constants:
            yield {
                "comment": f"{function.layer} ({function.operator}): {constant.role}",
                "ctype": constant.ctype,
                "name": _array(source.name, index, constant.role),
                "count": constant.values.size,
                "lines": _lines(constant.values),
            }


def _layer(source: CSource, program: Program, index: int) -> dict[str, Any]:
    """Return what the templates say of one layer."""
    operator, kernel = program.steps[index], program.kernels[index]
    function = source.functions[index]
    names = ["input", *(f"input_{number}" for number in range(1, len(operator.inputs)))]
    shapes = (list(function.input_shape), list(function.output_shape))
    places = [_place(program, tensor) for tensor in (*operator.inputs, operator.output)]
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


def _place(program: Program, name: str) -> str:
    """Return the C expression for a tensor's address inside `infer`."""
    graph, memory = program.graph, program.memory
    if memory.owner[name] == memory.owner[graph.input]:
        return "input"
    if memory.owner[name] == memory.owner[graph.output]:
        return "output"
    return f"memory.arena + {memory.offsets[name]}"


def _array(name: str, index: int, role: str) -> str:
    return f"{name}_{index:03d}_{role}"


def _border(tensor: QuantizedTensor) -> dict[str, Any]:
    """Return what the templates say of an input or output."""
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
