"""An int8 model from a float one: the only module that calls onnxruntime's quantiser."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeprune.errors import DataError, InternalCheckError, UnsupportedModelError
from edgeprune.export.cleanup import constants, prepare
from edgeprune.export.onnx_graph import describe, fixed_shape, load
from edgeprune.records import Artifact
from edgeprune.store import atomic

Method = Literal["minmax", "percentile", "entropy"]
Activations = Literal["uint8", "int8"]

# Operators whose inputs and outputs become int8; others stay in float between conversions.
QUANTIZED = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm",
    "GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu", "MatMul", "MaxPool", "Mul",
    "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Softmax", "Split", "Squeeze", "Tanh",
    "Transpose", "Unsqueeze",
)  # fmt: skip
PREPARED = "onnx.infer"  # tells the quantiser that shapes are known


def quantize(
    source: Path,
    target: Path,
    calibration: Iterable[NDArray[Any]],
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    activations: Activations = "uint8",
) -> Artifact:
    """Write the int8 form of the float model `source` to `target`, as one ONNX file.

    Static quantisation in QDQ form (QuantizeLinear and DequantizeLinear around every operator):
    weights symmetric, one scale a channel; activations asymmetric, one scale a tensor, its range
    taken from `calibration`, arrays of the input's shape or batches of them. ReLU and ReLU6
    disappear into the output range of the operator before them.

    `activations` is how ONNX stores them: onnxruntime runs every operator in integers on x86 only
    with uint8 (with int8, operators behind a shared tensor stay in float), and on ARM with both.
    The C code holds int8 in either case: the same integers, moved by 128.

    Requires: one input, fixed shapes.
    Ensures: input, output and metadata are those of `source`; the same file for the same input.

    Raises:
        DataError: `calibration` is empty or of another shape.
        UnsupportedModelError: not an ONNX model with one input, the quantiser refuses it, or a
            tensor reaches infinity.
        InternalCheckError: what the quantiser made is not valid ONNX.
    """
    describe(source)  # refuses what has no fixed shapes
    result = quantized(
        load(source), calibration, method=method, percentile=percentile, activations=activations
    )
    with atomic(target) as temporary:
        temporary.write_bytes(result.SerializeToString(deterministic=True))
    return describe(target)


def quantized(
    proto: onnx.ModelProto,
    calibration: Iterable[NDArray[Any]],
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    activations: Activations = "uint8",
) -> onnx.ModelProto:
    """Return the int8 form of the float model `proto`, whose shapes are inferred; see `quantize`.

    Raises:
        DataError: `calibration` is empty or of another shape.
        UnsupportedModelError: the model has not one input, the quantiser refuses it, or a tensor
            reaches infinity.
        InternalCheckError: what the quantiser made is not valid ONNX.
    """
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise UnsupportedModelError(
            f"the model has {len(inputs)} inputs",
            "int8 models have one input; export a model that takes one tensor",
        )
    prepared = prepare(proto)
    entry = prepared.metadata_props.add()
    entry.key, entry.value = PREPARED, "onnxruntime.quant"
    samples = _samples(calibration, fixed_shape(inputs[0]) or (), type_of(inputs[0]))
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        partial = Path(folder) / "int8.onnx"
        _run(prepared, partial, inputs[0].name, samples, method, percentile, activations)
        result = onnx.load(partial)
    _require_finite_scales(result.graph)
    _finish(result, proto)
    try:
        onnx.checker.check_model(result, full_check=True)
    except onnx.checker.ValidationError as error:
        raise InternalCheckError(f"the int8 model is not valid ONNX: {error}") from error
    return result


def type_of(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """Return the numpy type of a tensor that goes into or out of a graph."""
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def _samples(
    calibration: Iterable[NDArray[Any]], shape: tuple[int, ...], kind: np.dtype[Any]
) -> list[NDArray[Any]]:
    """Cut batches into arrays of exactly the input's shape and type."""
    found: list[NDArray[Any]] = []
    for given in map(np.asarray, calibration):
        if given.shape[1:] != shape[1:] or len(given) % shape[0]:
            raise DataError(
                f"calibration array has shape {given.shape}, the model takes {shape}",
                "give arrays of the model's input shape, or batches of them",
            )
        if not np.can_cast(given.dtype, kind, "same_kind"):
            raise DataError(
                f"calibration array holds {given.dtype}, the model takes {kind}",
                "give arrays of the model's input type",
            )
        array = given.astype(kind)
        found += [array[i : i + shape[0]] for i in range(0, len(array), shape[0])]
    if not found:
        raise DataError("there is no calibration data", "give at least a few dozen real inputs")
    return found


def _run(
    prepared: onnx.ModelProto,
    path: Path,
    name: str,
    samples: list[NDArray[Any]],
    method: Method,
    percentile: float,
    activations: Activations,
) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.remaining: Iterator[NDArray[Any]] = iter(samples)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            array = next(self.remaining, None)
            return None if array is None else {name: array}

    named = [kind for kind in vars(runtime).values() if isinstance(kind, type)]
    faults: tuple[type[Exception], ...] = (
        ValueError, RuntimeError, KeyError, NotImplementedError,
        *(kind for kind in named if issubclass(kind, Exception)),  # which have no base but that
    )  # fmt: skip
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the quantiser writes to the root logger
    try:
        with np.errstate(all="ignore"):  # infinity is refused by what comes of it
            quantize_static(
                prepared,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                per_channel=True,
                activation_type=QuantType.QUInt8 if activations == "uint8" else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=methods[method],
                extra_options={
                    "ActivationSymmetric": False,
                    "WeightSymmetric": True,
                    "ForceQuantizeNoInputCheck": True,
                    "MatMulConstBOnly": True,
                    "CalibPercentile": percentile,
                },
            )
    except faults as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UnsupportedModelError(
            f"the model cannot be quantised: {type(error).__name__}: {first}",
            'ship it in float: [export] precision = "float32"',
        ) from error
    finally:
        logging.disable(previous)


def _require_finite_scales(graph: onnx.GraphProto) -> None:
    """Raise UnsupportedModelError if a tensor reaches infinity: with its scale all of it is NaN."""
    values = constants(graph)
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = values.get(node.input[1])
        if scale is not None and not bool(np.isfinite(scale.astype(np.float64)).all()):
            name = node.input[0].removesuffix("_quantized").removesuffix("_QuantizeLinear_Output")
            raise UnsupportedModelError(
                f"the model cannot be quantised: {name} reaches infinity, which int8 does not have",
                'ship it in float: [export] precision = "float32"; int8 takes no masks of -inf',
            )


def _finish(result: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Give the model the metadata of its source and remove the quantiser's traces."""
    result.producer_name, result.producer_version = "edgeprune", ""
    del result.metadata_props[:]
    result.metadata_props.extend(source.metadata_props)
    for node in result.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
