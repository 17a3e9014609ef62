"""From a model file to C code that the harness can run: int8 with CMSIS-NN, or float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeprune.devices.microcontroller.adapter import float_adapter, integer_adapter
from edgeprune.export.c_source import generate, generate_graph
from edgeprune.export.float_source import NAME, FloatSource, generate_float
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.joined import computing, join
from edgeprune.export.onnx_graph import load
from edgeprune.export.tensors import decode, encode
from edgeprune.records import CSource, Microcontroller, Shape

Array = NDArray[Any]
QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"})
STACK_BYTES = 1 << 16  # room for kernels; float32 code keeps its tensors there besides


class Border(NamedTuple):
    """An input or output of the model: name, shape of one call, real values."""

    name: str
    shape: Shape


class Layer(NamedTuple):
    """A C function: its symbol, the name under which its count is reported, and its operator."""

    symbol: str
    name: str
    operator: str


class Sources(NamedTuple):
    """C code in `folder` and how to call it.

    `adapter` joins it to the harness. `helpers` are symbols that are called between inferences.
    `encode` turns one call's inputs into the bytes that the adapter expects, `decode` its output
    bytes into real values. `static_bytes` is what arena, scratch and state declare.
    """

    folder: Path
    files: tuple[str, ...]
    include_dirs: tuple[str, ...]
    defines: tuple[str, ...]
    adapter: str
    infer: str
    layers: tuple[Layer, ...]
    helpers: tuple[str, ...]
    inputs: tuple[Border, ...]
    output_bytes: int
    encode: Callable[[list[Array]], bytes]
    decode: Callable[[bytes], Array]
    stack_bytes: int
    arena_bytes: int
    scratch_bytes: int
    io_bytes: int


def write_sources(model: Path, folder: Path, chip: Microcontroller) -> Sources:
    """Write the C code of `model` into the new folder `folder`.

    Raises:
        UnsupportedModelError: there is no C code for an operator; names it.
        DeviceError: a package that writes or holds C code is not installed.
    """
    if is_integer(model):
        cmsis = Path(chip.cmsis) if chip.cmsis else None
        return integer_sources(generate(model, folder, name="net", target=chip.target, cmsis=cmsis))
    folder.mkdir()
    return float_sources(generate_float(model, folder), folder)


def is_integer(model: Path) -> bool:
    """Return whether the ONNX file `model` is quantised."""
    return any(node.op_type in QUANTIZED for node in load(model).graph.node)


def write_joined(
    models: Sequence[Path], folder: Path, chip: Microcontroller
) -> tuple[Sources, list[int]]:
    """Write one C program with the layers of all int8 `models` into the new folder `folder`.

    Returns what `write_sources` returns, and how many of its layers belong to each model.

    Raises:
        UnsupportedModelError: there is no C code for an operator; names it.
        DeviceError: a package that writes or holds C code is not installed.
    """
    graphs = [read_integer_graph(model) for model in models]
    source = generate_graph(
        join(graphs),
        folder,
        name="net",
        target=chip.target,
        cmsis=Path(chip.cmsis) if chip.cmsis else None,
        title=f"{len(models)} models",
    )
    return integer_sources(source), [computing(graph) for graph in graphs]


def integer_sources(source: CSource) -> Sources:
    """Return generated int8 code as the harness calls it."""
    name = source.name
    return Sources(
        folder=Path(source.folder),
        files=source.sources,
        include_dirs=source.include_dirs,
        defines=source.defines,
        adapter=integer_adapter(source),
        infer=f"{name}_infer",
        layers=tuple(Layer(f.symbol, f.layer, f.operator) for f in source.functions),
        helpers=tuple(
            f"{name}_{part}" for part in ("check", "input", "output", "paint", "scratch_used")
        ),
        inputs=(Border(source.input.name, source.input.shape),),
        output_bytes=math.prod(source.output.shape),
        encode=lambda arrays: encode(source.input, arrays[0]).tobytes(),
        decode=lambda data: decode(source.output, np.frombuffer(data, np.int8)),
        stack_bytes=STACK_BYTES,
        arena_bytes=source.arena_bytes,
        scratch_bytes=source.scratch_bytes,
        io_bytes=0,
    )


def float_sources(source: FloatSource, folder: Path) -> Sources:
    """Return float32 code in `folder` as the harness calls it."""
    first = source.outputs[0]
    sizes = [4 * math.prod(tensor.shape) for tensor in (*source.inputs, *source.outputs)]
    count = math.prod(first.shape)

    def encoded(arrays: list[Array]) -> bytes:
        padded = [np.ascontiguousarray(array, np.float32).tobytes() for array in arrays]
        return b"".join(data + bytes(-len(data) % 16) for data in padded)

    return Sources(
        folder=folder,
        files=source.files,
        include_dirs=(),
        defines=("EMX_NODE_FN=static __attribute__((noinline))",),
        adapter=float_adapter(source),
        infer=NAME,
        layers=tuple(Layer(f.symbol, f.output, f.operator) for f in source.functions),
        helpers=(),
        inputs=tuple(Border(tensor.name, tensor.shape) for tensor in source.inputs),
        output_bytes=sum(-(-size // 16) * 16 for size in sizes[len(source.inputs) :]),
        encode=encoded,
        decode=lambda data: np.frombuffer(data, np.float32, count).reshape(first.shape),
        stack_bytes=STACK_BYTES + source.temporary_bytes,
        arena_bytes=0,
        scratch_bytes=0,
        io_bytes=sum(sizes),
    )
