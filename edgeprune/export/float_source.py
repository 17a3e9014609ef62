"""C code of a float32 ONNX model, one function a node, written by emx-onnx-cgen."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from edgeprune.errors import DeviceError, UnsupportedModelError
from edgeprune.export.cmsis_nn import EXTRA
from edgeprune.export.onnx_graph import fixed_shape, load
from edgeprune.records import Shape

NAME = "net"
NODE = re.compile(
    r"^/\*\n \* Node \d+:\n \* OpType: (?P<operator>\S+)\n \* Name: .*\n \* Inputs: .*\n"
    r" \* Outputs: (?P<output>[^\n,]+).*\n(?: \*[^/].*\n)* \*/\nEMX_NODE_FN void (?P<symbol>\w+)\(",
    re.MULTILINE,
)
TEMPORARY = re.compile(r"^    \w+ \w+((?:\[\d+\])+);$", re.MULTILINE)


class FloatTensor(NamedTuple):
    """A float32 tensor at the border of the C code, contiguous in the order of `shape`."""

    name: str
    shape: Shape


class NodeFunction(NamedTuple):
    """The C function of one node, known by the first tensor that the node gives."""

    symbol: str
    operator: str
    output: str


class FloatSource(NamedTuple):
    """A folder of C code: `void net(const float *input, ..., float *output, ...)`.

    Intermediate tensors live on the stack, unplanned: `temporary_bytes` of it.
    """

    files: tuple[str, ...]
    inputs: tuple[FloatTensor, ...]
    outputs: tuple[FloatTensor, ...]
    functions: tuple[NodeFunction, ...]
    temporary_bytes: int


def generate_float(model: Path, folder: Path) -> FloatSource:
    """Write C code of the float32 `model` into the existing `folder`.

    Raises:
        UnsupportedModelError: not float32, not of fixed shape, or an operator has no C code.
        DeviceError: emx-onnx-cgen is not installed.
    """
    compiler, refused = _compiler()
    proto = load(model)
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = tuple(_tensor(v, model) for v in proto.graph.input if v.name not in constants)
    outputs = tuple(_tensor(value, model) for value in proto.graph.output)
    try:
        code, data = compiler.compile_with_data_file(proto)
    except refused as error:
        raise UnsupportedModelError(
            f"{model.name}: emx-onnx-cgen writes no C code for it: {error}",
            "quantise the model to int8 or replace the operator",
        ) from None
    functions = tuple(
        NodeFunction(found["symbol"], found["operator"], found["output"].strip())
        for found in NODE.finditer(code)
    )
    if len(functions) != code.count("\nEMX_NODE_FN "):
        raise UnsupportedModelError(
            f"{model.name}: the C code of emx-onnx-cgen is laid out in an unknown way",
            "install the version that constraints.txt pins",
        )
    (folder / f"{NAME}.c").write_text(code, encoding="utf-8")
    (folder / f"{NAME}_data.c").write_text(data, encoding="utf-8")
    body = code[code.rindex(f"void {NAME}(") :]
    temporary = sum(
        8 * math.prod(int(size) for size in re.findall(r"\d+", found[1]))
        for found in TEMPORARY.finditer(body)
    )
    return FloatSource((f"{NAME}.c", f"{NAME}_data.c"), inputs, outputs, functions, temporary)


@cache
def _compiler() -> tuple[Any, type[Exception]]:
    """Return the writer of C code, which reads its templates once, and what it raises."""
    try:
        from emx_onnx_cgen.compiler import Compiler, CompilerOptions
        from emx_onnx_cgen.errors import CompilerError
    except ImportError as error:
        raise DeviceError(f"C code of float32 models needs emx-onnx-cgen: {error}", EXTRA) from None
    options = CompilerOptions(
        model_name=NAME, large_temp_threshold_bytes=0, large_weight_threshold=0
    )
    return Compiler(options), CompilerError


def _tensor(value: onnx.ValueInfoProto, model: Path) -> FloatTensor:
    shape = fixed_shape(value)
    if shape is None:
        raise UnsupportedModelError(
            f"{model.name}: tensor {value.name!r} has no fixed shape",
            "export the model with the shapes that will run on the device",
        )
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UnsupportedModelError(
            f"{model.name}: tensor {value.name!r} is not float32",
            "firmware takes float32 models and int8 models with float32 borders",
        )
    return FloatTensor(value.name, shape)
