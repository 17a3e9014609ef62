"""Fixed shapes for ONNX files whose inputs have none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from edgeprune.errors import UsageError
from edgeprune.export.onnx_graph import fixed_shape, load

Shape = tuple[int, ...]


def fix_shapes(path: Path, shapes: Mapping[str, Shape], out: Path) -> Path:
    """Write the ONNX model at `path` to `out` with inputs of the given shapes.

    `shapes` maps names of inputs to shapes; the name "" stands for the only input that has no fixed
    shape, or for the only input. A dimension that several inputs share by name gets one size.

    Raises:
        UsageError: no such input, another number of dimensions, or a size that the file forbids.
        UnsupportedModelError: not an ONNX model.
    """
    proto = load(path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        _set(inputs[_input(name, inputs, path)], shape, sizes, path)
    for value in (*proto.graph.input, *proto.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
    del proto.graph.value_info[:]
    for value in proto.graph.output:  # inferred anew from the inputs
        if fixed_shape(value) is None:
            value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UsageError(f"{path.name} does not take these shapes: {first}") from None
    _name_nodes(inferred)
    onnx.save(inferred, out)
    return out


def with_names(path: Path, out: Path) -> Path:
    """Return `path`, or `out` with a copy in which nodes without a name have one.

    onnxruntime would number them by operator, and its profile could not be read back.

    Raises:
        UnsupportedModelError: not an ONNX model.
    """
    proto = load(path)
    if all(node.name for node in proto.graph.node):
        return path
    _name_nodes(proto)
    onnx.save(proto, out)
    return out


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Name each node without a name after its first output."""
    taken = {node.name for node in proto.graph.node}
    for node in proto.graph.node:
        if not node.name:
            node.name = next(n for n in _variants(node.output[0]) if n not in taken)
            taken.add(node.name)


def _variants(name: str) -> Iterator[str]:
    while True:
        yield name
        name += "_"


def _input(name: str, inputs: Mapping[str, onnx.ValueInfoProto], path: Path) -> str:
    if name in inputs:
        return name
    open_ = [key for key, value in inputs.items() if fixed_shape(value) is None] or list(inputs)
    if not name and len(open_) == 1:
        return open_[0]
    known = ", ".join(f"{key}=..." for key in open_)
    what = f"has no input {name!r}" if name else f"has {len(open_)} inputs to fix"
    raise UsageError(f"{path.name} {what}", f"name them: --shape {known}")


def _set(value: onnx.ValueInfoProto, shape: Shape, sizes: dict[str, int], path: Path) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        for size in shape:
            tensor.shape.dim.add().dim_value = size
        return
    if len(tensor.shape.dim) != len(shape):
        raise UsageError(
            f"{path.name}: input {value.name!r} has {len(tensor.shape.dim)} dimensions, "
            f"the shape given {len(shape)}"
        )
    for dimension, size in zip(tensor.shape.dim, shape, strict=True):
        name = dimension.dim_param
        if dimension.HasField("dim_value") and dimension.dim_value not in (0, size):
            raise UsageError(
                f"{path.name}: a dimension of input {value.name!r} is {dimension.dim_value} and "
                f"cannot become {size}"
            )
        if name and sizes.setdefault(name, size) != size:
            raise UsageError(f"{path.name}: dimension {name!r} cannot be {sizes[name]} and {size}")
        dimension.dim_value = size
