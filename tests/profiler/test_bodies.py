"""Loop, Scan and If: what runs inside of them is measured within them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.devices.protocol import ModelAnswer, NodeCosts
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.sub_graphs import without_bodies

WIDTH = 16


def value(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def product(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [source, "w"], [target], name=f"{target}/MatMul")


def body_of_a_loop() -> onnx.NodeProto:
    state = [1, WIDTH]
    body = helper.make_graph(
        [product("s", "inside"), helper.make_node("Relu", ["inside"], ["next"], name="inside/Relu"),
         helper.make_node("Identity", ["go"], ["on"], name="inside/Identity")],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("s", state)],
        [value("on", [], TensorProto.BOOL), value("next", state)],
    )  # fmt: skip
    return helper.make_node("Loop", ["trips", "yes", "a"], ["y"], name="control/Loop", body=body)


def body_of_a_scan() -> onnx.NodeProto:
    step = [1, WIDTH]
    body = helper.make_graph(
        [product("s", "inside"),
         helper.make_node("Add", ["inside", "one"], ["next"], name="inside/Add"),
         helper.make_node("Identity", ["next"], ["each"], name="inside/Identity")],
        "body", [value("s", step), value("one", step)], [value("next", step), value("each", step)],
    )  # fmt: skip
    return helper.make_node(
        "Scan", ["a", "steps"], ["y", "all"], name="control/Scan", body=body, num_scan_inputs=1
    )


def branches() -> onnx.NodeProto:
    then, other = (
        helper.make_graph([product("a", name)], name, [], [value(name, [1, WIDTH])])
        for name in ("then", "other")
    )
    return helper.make_node(
        "If", ["positive"], ["y"], name="control/If", then_branch=then, else_branch=other
    )


def written(kind: str, path: Path, trips: int = 5) -> Path:
    made = {"Loop": body_of_a_loop, "Scan": body_of_a_scan, "If": branches}[kind]()
    judged = [
        helper.make_node("ReduceSum", ["a"], ["sum"], name="sum/ReduceSum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"], name="positive/Greater"),
    ]
    stored = {
        "w": np.full((WIDTH, WIDTH), 0.1, np.float32),
        "steps": np.ones((trips, 1, WIDTH), np.float32),
        "trips": np.array(trips),
        "yes": np.array(True),
        "zero": np.array(0.0, np.float32),
    }
    graph = helper.make_graph(
        [product("x", "a"), *(judged if kind == "If" else []), made],
        "g",
        [value("x", [1, WIDTH])],
        [value("y", [1, WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize(("kind", "trips"), [("Loop", 5), ("Loop", 1), ("Scan", 5), ("If", 1)])
def test_a_model_with_control_flow_is_profiled(local, tmp_path: Path, kind: str, trips: int):
    path = written(kind, tmp_path / "m.onnx", trips)
    found = profile_model(local, path, name="m", processes=1, rounds=5, seconds=0.0)
    assert found.costs["a"] >= 0
    assert found.costs["control"] > 0
    assert found.sub_graphs == 0.0
    assert not [part.name for part in found.timeline if part.name.startswith("inside")]
    assert "control" in {part.layer for part in found.timeline}
    assert any(f"control/{kind} holds what the profiler adds" in w for w in found.warnings)


def node(name: str, operator: str, values: list[float], starts: list[float]) -> NodeCosts:
    return NodeCosts(name=name, operator=operator, provider="p", values=values, starts=starts)


def test_what_runs_inside_of_control_flow_is_left_out() -> None:
    answer = ModelAnswer(
        name="m",
        load_seconds=0.0,
        runs=(50.0, 50.0),
        nodes=(
            node("before", "Conv", [0.0, 0.0], [10.0, 110.0]),  # shorter than the clock can tell
            node("branch", "MatMul", [5.0, 5.0], [12.0, 113.0]),
            node("often", "Relu", [1.0] * 4, [12.0, 14.0, 113.0, 115.0]),
            node("if", "If", [20.0, 20.0], [10.0, 111.0]),
            node("behind", "Conv", [3.0, 3.0], [30.0, 131.0]),
        ),
    )
    assert [n.name for n in without_bodies(answer).nodes] == ["before", "if", "behind"]


def test_answers_without_control_flow_stay_as_they_are() -> None:
    nodes = (node("a", "Conv", [5.0], [1.0]), node("b", "Relu", [1.0], [2.0]))
    whole = ModelAnswer(name="m", load_seconds=0.0, runs=(9.0,), nodes=nodes)
    assert without_bodies(whole) == whole
    counted = whole.model_copy(update={"runs": ()})  # firmware and formulas tell none
    assert without_bodies(counted) == counted
