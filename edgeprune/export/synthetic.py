"""Small ONNX models whose work is known by construction, for measuring the device itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = tuple[int, ...]
OPSET, IR_VERSION = 20, 10


def write_chain(path: Path, operator: str, count: int, shape: Shape) -> Path:
    """Write `count` element-wise nodes named node_0, node_1, ... that feed each other."""
    nodes = [
        helper.make_node(operator, [f"t{i}"], [f"t{i + 1}"], name=f"node_{i}") for i in range(count)
    ]
    return _write(path, nodes, shape, shape, f"t{count}", [])


def write_product(path: Path, size: int) -> Path:
    """Write one product of two square float32 matrices: size^3 multiply-accumulates."""
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    node = helper.make_node("MatMul", ["t0", "weight"], ["t1"], name="product")
    return _write(
        path, [node], (size, size), (size, size), "t1", [numpy_helper.from_array(weight, "weight")]
    )


def write_convolutions(
    path: Path, count: int, *, channels: int, size: int, bias: bool = False
) -> Path:
    """Write `count` equal 3 x 3 convolutions, each with weights of its own, that feed each other.

    Two such models differ by a known share of their work.
    """
    generator = np.random.default_rng(0)
    shape, nodes, weights = (1, channels, size, size), [], []
    for index in range(count):
        scale = (2.0 / (9 * channels)) ** 0.5
        values = generator.standard_normal((channels, channels, 3, 3)) * scale
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{index}"))
        if bias:
            weights.append(numpy_helper.from_array(np.zeros(channels, np.float32), f"b{index}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [f"t{index}", f"w{index}", *([f"b{index}"] if bias else [])],
                [f"t{index + 1}"],
                name=f"conv_{index}",
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
            )
        )
    return _write(path, nodes, shape, shape, f"t{count}", weights)


def _write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    given: Shape,
    made: Shape,
    output: str,
    weights: Sequence[onnx.TensorProto],
) -> Path:
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("t0", kind, given)],
        [helper.make_tensor_value_info(output, kind, made)],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.save(model, path)
    return path
