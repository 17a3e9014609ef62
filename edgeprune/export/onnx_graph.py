"""One ONNX file from a torch model: the only module that calls torch.onnx and onnx-ir's passes."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgeprune.errors import InternalCheckError, UnsupportedModelError, UsageError
from edgeprune.records import Artifact, TensorInfo
from edgeprune.store import atomic, sha256_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor, nn

PREFIX = "edgeprune."
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def export(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    *,
    opset: int,
    metadata: Mapping[str, str] | None = None,
) -> Artifact:
    """Write `model` to `path` as one ONNX file with fixed shapes.

    Requires: the model is in eval mode and runs on `inputs`.
    Ensures: nodes and tensors are named after torch layers; no path of this machine and no stack
    trace is left; no weight is denormal (onnxruntime issue 7448: an order of magnitude slower);
    `metadata` stands in metadata_props under "edgeprune."; the ONNX checker passes.

    Raises:
        UnsupportedModelError: torch.onnx cannot export the model, or an operator of it takes no
            tensors of the type that it gets.
        InternalCheckError: the checker refuses what was exported.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common as passes

    names = ["input"] if len(inputs) == 1 else [f"input_{i}" for i in range(len(inputs))]
    exported = _torch_export(model.eval(), inputs, names, opset)
    _fold_recurrent_weights(exported)
    _rename(exported, {name for name, _ in model.named_modules()})
    _flush_denormals(exported)
    passes.ClearMetadataAndDocStringPass()(exported)
    passes.RemoveUnusedNodesPass()(exported)
    exported.producer_name = "edgeprune"
    exported.producer_version = None
    exported.metadata_props.clear()
    for key, value in sorted((metadata or {}).items()):
        exported.metadata_props[PREFIX + key] = value
    proto = ir.to_proto(exported)
    try:
        _infer_shapes(proto)
        onnx.checker.check_model(proto, full_check=True)
    except onnx.shape_inference.InferenceError as error:
        raise UnsupportedModelError(
            f"the model cannot be exported to ONNX: {_first_line(error)}",
            "compute in float32: no torch.autocast and no .half() or .bfloat16() inside the model",
        ) from error
    except onnx.checker.ValidationError as error:
        raise InternalCheckError(f"the exported model is not valid ONNX: {error}") from error
    with atomic(path) as partial:
        partial.write_bytes(proto.SerializeToString(deterministic=True))
    return describe(path)


def describe(path: Path) -> Artifact:
    """Return what the ONNX file at `path` is.

    Raises:
        UnsupportedModelError: not an ONNX file, or an input has no fixed shape.
    """
    proto = load(path)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    return Artifact(
        path=path.name,
        sha256=sha256_of(path),
        file_bytes=path.stat().st_size,
        opset=next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0),
        inputs=tuple(_info(v) for v in proto.graph.input if v.name not in initializers),
        outputs=tuple(_info(v) for v in proto.graph.output),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
    )


def load(path: Path) -> onnx.ModelProto:
    """Return the ONNX model at `path`, with shapes inferred.

    Raises:
        UsageError: the file cannot be read.
        UnsupportedModelError: it is not an ONNX model.
    """
    try:
        proto = onnx.load(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name an .onnx file") from None
    except Exception as error:  # noqa: BLE001 - protobuf raises classes of its own backends
        if "external" in str(error).lower() or "should be stored in" in str(error):
            raise UnsupportedModelError(
                f"{path} keeps weights in another file, which is missing or damaged: {error}",
                "keep the file of the weights beside the model, as it was exported",
            ) from None
        raise UnsupportedModelError(f"{path} is not an ONNX model: {error}") from None
    if not proto.graph.node or not proto.opset_import:
        raise UnsupportedModelError(f"{path} is not an ONNX model: it has no nodes or no opset")
    _infer_shapes(proto)
    return proto


def weight_shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of all stored tensors of two axes or more in the file at `path`, sorted.

    Quantisation adds scales, which have one axis at most, and leaves these as they are.
    """
    graph = onnx.load(path, load_external_data=False).graph
    constants = (a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute)
    shapes = (tuple(tensor.dims) for tensor in (*graph.initializer, *constants))
    return sorted(shape for shape in shapes if len(shape) > 1)


def require_valid(path: Path) -> None:
    """Make sure that the file is a model that a runtime would take, for devices that run none.

    Raises:
        UnsupportedModelError: it is not; says what is wrong.
    """
    try:
        onnx.checker.check_model(load(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedModelError(
            f"{path.name} is not valid ONNX: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")


def _infer_shapes(proto: onnx.ModelProto) -> None:
    proto.graph.CopyFrom(onnx.shape_inference.infer_shapes(proto).graph)


def _torch_export(
    model: nn.Module, inputs: tuple[Tensor, ...], names: list[str], opset: int
) -> ir.Model:
    import torch

    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                opset_version=opset,
                external_data=False,
                input_names=names,
                output_names=["output"],
                verbose=False,
            )
    except Exception as error:
        raise UnsupportedModelError(
            f"the model cannot be exported to ONNX: {type(error).__name__}: {_first_line(error)}",
            "torch.export must be able to trace it: no control flow on values, one tensor out",
        ) from error
    if program is None:
        raise InternalCheckError("torch.onnx.export returned nothing")
    exported: ir.Model = program.model
    return exported


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about other packages away from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _fold_recurrent_weights(model: ir.Model) -> None:
    """Put the gates of recurrent layers into ONNX's order once, not in every run.

    torch.onnx leaves this to slices and concatenations of the weights, twenty nodes a layer, and a
    call: what several calls of a layer share is stored once.
    """
    from onnxscript import optimizer

    above = [v for n in model.graph if n.op_type in RECURRENT for v in n.inputs[1:] if v]
    folded: set[ir.Node] = set()
    while above:
        node = above.pop().producer()
        if node is not None and node not in folded:
            folded.add(node)
            above += [value for value in node.inputs if value is not None]
    if folded:
        limit = sys.maxsize
        optimizer.fold_constants(
            model, input_size_limit=limit, output_size_limit=limit, should_fold=folded.__contains__
        )
    stored: dict[object, ir.Value] = {}
    for node in (node for node in model.graph if node.op_type in RECURRENT):
        for index, value in enumerate(node.inputs):
            if index and value is not None and value.const_value is not None:
                array = value.const_value.numpy()
                key = array.dtype.str, array.shape, sha256(array.tobytes()).digest()
                node.replace_input_with(index, stored.setdefault(key, value))


def _rename(model: ir.Model, layers: set[str]) -> None:
    """Name every node `layer/Operator` after the torch layer it comes from, and its output alike.

    A convolution takes the name of its weight: BatchNorm was folded into it and left its own scope.
    """
    outputs = {value.name for value in model.graph.outputs}
    used: dict[str, int] = {}
    for node in model.graph:
        layer = _layer_of(node, layers)
        base = f"{layer}/{node.op_type}" if layer else node.op_type
        used[base] = used.get(base, 0) + 1
        node.name = base if used[base] == 1 else f"{base}_{used[base]}"
        for index, value in enumerate(node.outputs):
            if value.name not in outputs:
                value.name = f"{node.name}:{index}"


def _layer_of(node: ir.Node, layers: set[str]) -> str:
    for value in node.inputs:
        if value is not None and value.is_initializer() and value.name:
            owner = value.name.rpartition(".")[0]
            if owner and owner in layers:
                return owner
    scopes: Any = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
    try:
        parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    except AttributeError:
        return ""
    known = [part for part in parts if part and part in layers]
    return known[-1] if known else ""


def _flush_denormals(model: ir.Model) -> None:
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        array = tensor.numpy()
        tiny = (np.abs(array) < SMALLEST_NORMAL) & (array != 0)
        if tiny.any():
            value.const_value = ir.tensor(np.where(tiny, np.float32(0), array), name=value.name)


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    shape = fixed_shape(value)
    if shape is None:
        raise UnsupportedModelError(
            f"tensor {value.name!r} has no fixed shape",
            "export the model with the shapes that will run on the device",
        )
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return TensorInfo(name=value.name, dtype=str(kind), shape=shape)


def fixed_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Return the shape of a value, or None if a dimension is not a number."""
    dims = value.type.tensor_type.shape.dim
    if not value.type.tensor_type.HasField("shape") or not all(
        d.HasField("dim_value") for d in dims
    ):
        return None
    return tuple(d.dim_value for d in dims)
