from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.errors import UsageError
from edgeprune.export.segments import read_graph
from edgeprune.export.shapes import fix_shapes, with_names
from edgeprune.export.synthetic import write_chain, write_convolutions, write_product


@pytest.fixture
def dynamic(tmp_path: Path):
    """Write a model of two inputs [batch, 4] that are added and multiplied by a weight [4, 3]."""

    def write(*inputs: str) -> Path:
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in inputs]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
        weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [0.5] * 12)
        nodes = [helper.make_node("MatMul", [inputs[0], "w"], ["y"])]
        if len(inputs) > 1:
            nodes = [
                helper.make_node("Add", list(inputs), ["s"]),
                helper.make_node("MatMul", ["s", "w"], ["y"]),
            ]
        graph = helper.make_graph(nodes, "g", values, [output], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return write


def test_the_only_open_input_needs_no_name(dynamic, tmp_path: Path) -> None:
    path = fix_shapes(dynamic("x"), {"": (5, 4)}, tmp_path / "fixed.onnx")
    graph = read_graph(path)
    assert (graph.shapes["x"], graph.shapes["y"]) == ((5, 4), (5, 3))
    assert graph.macs == 5 * 4 * 3


def test_inputs_that_share_a_dimension_share_its_size(dynamic, tmp_path: Path) -> None:
    path = fix_shapes(dynamic("a", "b"), {"a": (7, 4)}, tmp_path / "fixed.onnx")
    assert read_graph(path).shapes["b"] == (7, 4)


@pytest.mark.parametrize(
    ("inputs", "shapes", "words"),
    [
        (("a", "b"), {"": (5, 4)}, "2 inputs to fix"),
        (("x",), {"z": (5, 4)}, "no input 'z'"),
        (("x",), {"": (5,)}, "has 2 dimensions, the shape given 1"),
        (("x",), {"": (5, 6)}, "is 4 and cannot become 6"),
        (("a", "b"), {"a": (5, 4), "b": (6, 4)}, "'batch' cannot be 5 and 6"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(dynamic, tmp_path: Path, inputs, shapes, words) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        fix_shapes(dynamic(*inputs), shapes, tmp_path / "fixed.onnx")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "fixed.onnx").exists()


def test_synthetic_models_hold_the_work_they_promise(tmp_path: Path) -> None:
    product = read_graph(write_product(tmp_path / "p.onnx", 32))
    assert product.macs == 32**3
    chain = read_graph(write_chain(tmp_path / "c.onnx", "Sin", 5, (1, 16)))
    assert ([s.operator for s in chain.segments], chain.macs) == (["Sin"] * 5, 0)
    four = read_graph(write_convolutions(tmp_path / "four.onnx", 4, channels=8, size=6))
    five = read_graph(write_convolutions(tmp_path / "five.onnx", 5, channels=8, size=6))
    assert four.macs == 4 * 9 * 8 * 8 * 36
    assert five.macs * 4 == four.macs * 5
    for path in tmp_path.glob("*.onnx"):
        onnx.checker.check_model(onnx.load(path), full_check=True)


def test_nodes_without_names_are_named_after_their_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"], name="a"),
        helper.make_node("Abs", ["b"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20)]
    path, out = tmp_path / "m.onnx", tmp_path / "named.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    assert with_names(path, out) == out
    assert [node.name for node in onnx.load(out).graph.node] == ["a_", "a", "y"]
    assert with_names(out, tmp_path / "again.onnx") == out
