"""Which form of an exported model goes to the device: the float file itself, or its int8 form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeprune.data import Data, first_batches
from edgeprune.export.onnx_graph import describe
from edgeprune.export.quantization import quantize, quantized, type_of
from edgeprune.export.segments import BINARY
from edgeprune.job import Job
from edgeprune.records import Artifact

FRAGMENT_SAMPLES = 2  # ranges of a single layer do not change what it costs


@dataclass(frozen=True)
class Precision:
    """The precision in which models run on the device.

    `calibration` holds real inputs, [samples, ...], from which int8 takes its ranges.
    """

    name: Literal["float32", "int8"] = "float32"
    calibration: tuple[NDArray[Any], ...] = ()

    @classmethod
    def of(cls, job: Job, data: Data) -> Precision:
        """Return the precision of `job`, calibrated on the inputs that choose its channels."""
        if job.export.precision == "float32":
            return cls()
        wanted = job.prune.calibration_samples
        taken = first_batches(data.calibration, wanted, "calibration")
        arrays = [inputs[0].numpy()[: _whole(inputs[0], data)] for inputs, _ in taken]
        return cls("int8", tuple(array for array in arrays if len(array)))

    def file(self, exported: Path) -> Path:
        """Return where the form of `exported` lies that goes to the device."""
        return exported if self.name == "float32" else exported.with_suffix(".int8.onnx")

    def write(self, exported: Path) -> Artifact:
        """Write and describe the form of the float file `exported` that goes to the device.

        Raises:
            UnsupportedModelError: the model cannot be quantised.
            DataError: there are no calibration inputs.
        """
        if self.name == "float32":
            return describe(exported)
        return quantize(exported, self.file(exported), self.calibration)

    def fragment(self, content: bytes, seed: int = 0) -> bytes:
        """Return the form of a layer's float model that has the price of the shipped one.

        Ranges come from random inputs. An int8 model has one input: operands of the same shape
        and type become one, and a sum of the layer's result with a tensor of its shape becomes one
        with itself; which changes no count. What has another shape becomes a constant.

        Raises:
            UnsupportedModelError: the layer cannot be quantised.
        """
        if self.name == "float32":
            return content
        proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
        _join_inputs(proto.graph, seed)
        shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
        kind, random = type_of(proto.graph.input[0]), np.random.default_rng(seed)
        inputs: list[NDArray[Any]] = [
            random.standard_normal(shape).astype(kind)
            if kind.kind == "f"
            else random.integers(0, 2, shape).astype(kind)  # indices, even of the smallest table
            for _ in range(FRAGMENT_SAMPLES)
        ]
        inferred = onnx.shape_inference.infer_shapes(proto)
        content = quantized(inferred, inputs).SerializeToString(deterministic=True)
        return content


def _whole(inputs: Any, data: Data) -> int:
    """Return how many samples of a batch fill whole calls of the example's batch size."""
    size = len(data.example[0])
    return len(inputs) // size * size


def _join_inputs(graph: onnx.GraphProto, seed: int) -> None:
    first, *rest = graph.input
    types = {v.name: v.type.tensor_type for v in (*rest, *graph.value_info, *graph.output)}
    same = {value.name for value in rest if types[value.name] == first.type.tensor_type}
    made = {name for node in graph.node for name in node.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in same:
                node.input[index] = first.name
            elif name in types and name not in made and node.op_type in BINARY:
                other = node.input[1 - index]
                if other in made and types[other] == types[name]:
                    node.input[index] = other
    random, read = np.random.default_rng(seed), {n for node in graph.node for n in node.input}
    for value in rest:
        if value.name in read and type_of(value).kind == "f":
            shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
            array = random.standard_normal(shape).astype(type_of(value))
            graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
            read.remove(value.name)
    kept = [value for value in graph.input if value.name in read]
    del graph.input[:]
    graph.input.extend(kept)
