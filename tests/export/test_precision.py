"""The form of a model that goes to the device."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeprune.export.fragments import fragment, template
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.precision import Precision
from edgeprune.export.segments import as_int8, read_graph

INT8 = Precision("int8", (np.zeros((1, 3, 8, 8), np.float32),))


@pytest.mark.parametrize(
    ("model", "layer", "group", "widths"),
    [
        ("plain", "conv2", 16, (5, 7)),
        ("plain", "head", 24, (9, 10)),
        ("plain", "pool", 24, (5, 5)),
        ("residual", "a2", 16, (4, 12)),
    ],
)
def test_quantised_fragments_lower_to_integers(
    exported, tmp_path, model, layer, group, widths
) -> None:
    graph = read_graph(exported(model))
    segment = next(s for s in graph.segments if s.name == layer)
    content = INT8.fragment(fragment(template(graph, segment, group), *widths))
    path = tmp_path / "fragment.onnx"
    path.write_bytes(content)
    integers = read_integer_graph(path)
    assert [operator.kind for operator in integers.operators].count(segment.operator) <= 1
    assert integers.tensors[integers.input].shape[1] == widths[0]
    assert integers.tensors[integers.output].shape[1] == widths[1]
    assert INT8.fragment(fragment(template(graph, segment, group), *widths)) == content


def test_operands_of_a_sum_become_one_input(tmp_path) -> None:
    shape = [1, 4, 3, 3]
    values = [onnx.helper.make_tensor_value_info(n, 1, shape) for n in "abc"]
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"], name="sum/Add")
    graph = onnx.helper.make_graph([node], "layer", values[:2], values[2:])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    path = tmp_path / "sum.onnx"
    path.write_bytes(INT8.fragment(model.SerializeToString()))
    assert [operator.kind for operator in read_integer_graph(path).operators] == ["Add"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["a"]


@pytest.mark.parametrize("shape", [[1, 4, 1, 1], [1, 4, 3, 3], [1, 1, 3, 3]])
def test_an_operand_of_another_shape_becomes_a_constant(shape: list[int]) -> None:
    values = [onnx.helper.make_tensor_value_info(n, 1, [1, 4, 3, 3]) for n in "xy"]
    gate = onnx.helper.make_tensor_value_info("gate", 1, shape)
    node = onnx.helper.make_node("Mul", ["gate", "x"], ["y"], name="scale/Mul")
    graph = onnx.helper.make_graph([node], "layer", [values[0], gate], values[1:])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    content = INT8.fragment(model.SerializeToString())
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("x", [1, 4, 3, 3])]
    (answer,) = session.run(None, {"x": np.ones((1, 4, 3, 3), np.float32)})
    assert answer.shape == (1, 4, 3, 3)


def test_float_goes_to_the_device_as_it_is(exported) -> None:
    path = exported("plain")
    assert Precision().file(path) == path
    assert Precision().fragment(b"anything") == b"anything"
    assert Precision().write(path).inputs[0].dtype == "float32"
    assert INT8.file(path).name == path.stem + ".int8.onnx"


def test_bytes_of_int8_layers(exported) -> None:
    plain = read_graph(exported("plain"))
    small = as_int8(plain)
    assert small.peak_activation_bytes() * 4 == plain.peak_activation_bytes()
    before, after = plain.segments[0], small.segments[0]
    assert before.parameter_bytes == 4 * (3 * 16 * 9 + 16)
    assert after.parameter_bytes == 3 * 16 * 9 + 4 * 16
    assert (after.macs, after.parameters) == (before.macs, before.parameters)
