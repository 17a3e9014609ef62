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
        and type become one, which changes no count; and what the layer's result is combined with
        becomes that result, which changes none unless it has another shape.

        Raises:
            UnsupportedModelError: the layer cannot be quantised.
        """
        if self.name == "float32":
            return content
        proto = onnx.load_from_string(content)
        _join_inputs(proto.graph)
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


def _join_inputs(graph: onnx.GraphProto) -> None:
    first = graph.input[0]
    others = {
        value.name for value in graph.input[1:] if value.type.tensor_type == first.type.tensor_type
    }
    added = {value.name for value in graph.input[1:]} - others
    made = {name for node in graph.node for name in node.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in others:
                node.input[index] = first.name
            elif name in added and node.op_type in BINARY and node.input[1 - index] in made:
                node.input[index] = node.input[1 - index]
    read = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.input if value.name in read]
    del graph.input[:]
    graph.input.extend(kept)
