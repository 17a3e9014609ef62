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
from edgeprune.export.cleanup import prepare
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
        UnsupportedModelError: not an ONNX model with one input, or the quantiser refuses it.
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
        UnsupportedModelError: the model has not one input, or the quantiser refuses it.
        InternalCheckError: what the quantiser made is not valid ONNX.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise UnsupportedModelError(
            f"the model has {len(inputs)} inputs",
            "int8 models have one input; export a model that takes one tensor",
        )
    prepared = prepare(proto)
    entry = prepared.metadata_props.add()
    entry.key, entry.value = PREPARED, "onnxruntime.quant"
    samples = _samples(calibration, fixed_shape(inputs[0]) or ())
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        partial = Path(folder) / "int8.onnx"
        _run(prepared, partial, inputs[0].name, samples, method, percentile, activations)
        result = onnx.load(partial)
    _finish(result, proto)
    try:
        onnx.checker.check_model(result, full_check=True)
    except onnx.checker.ValidationError as error:
        raise InternalCheckError(f"the int8 model is not valid ONNX: {error}") from error
    return result


def _samples(
    calibration: Iterable[NDArray[Any]], shape: tuple[int, ...]
) -> list[NDArray[np.float32]]:
    """Cut batches into arrays of exactly the input's shape."""
    found: list[NDArray[np.float32]] = []
    for given in calibration:
        array = np.asarray(given, np.float32)
        if array.shape[1:] != shape[1:] or len(array) % shape[0]:
            raise DataError(
                f"calibration array has shape {array.shape}, the model takes {shape}",
                "give arrays of the model's input shape, or batches of them",
            )
        found += [array[i : i + shape[0]] for i in range(0, len(array), shape[0])]
    if not found:
        raise DataError("there is no calibration data", "give at least a few dozen real inputs")
    return found


def _run(
    prepared: onnx.ModelProto,
    path: Path,
    name: str,
    samples: list[NDArray[np.float32]],
    method: Method,
    percentile: float,
    activations: Activations,
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.remaining: Iterator[NDArray[np.float32]] = iter(samples)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            array = next(self.remaining, None)
            return None if array is None else {name: array}

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the quantiser writes to the root logger
    try:
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
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UnsupportedModelError(
            f"the model cannot be quantised: {type(error).__name__}: {first}",
            'ship it in float: [export] precision = "float32"',
        ) from error
    finally:
        logging.disable(previous)


def _finish(result: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Give the model the metadata of its source and remove the quantiser's traces."""
    result.producer_name, result.producer_version = "edgeprune", ""
    del result.metadata_props[:]
    result.metadata_props.extend(source.metadata_props)
    for node in result.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
