"""Layers that a provider compiled into one piece.

The trace is one that onnxruntime-openvino 1.24.1 left on a CPU: two pieces, and between them an
operator that OpenVINO does not take.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.cost.table import build_table, predicted_cost
from edgeprune.devices.local import WORKER
from edgeprune.devices.protocol import ModelAnswer, NodeCosts
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.report.profile_page import render
from edgeprune.report.trace import chrome_trace

WORK = runpy.run_path(str(WORKER), run_name="worker")
EVENTS = json.loads(Path(__file__).with_name("openvino_trace.json").read_text())
RUNS, WARMUP = 6, 2
# Names as onnxruntime gives them to what TensorRT compiled.
TENSORRT = "TensorrtExecutionProvider_TRTKernel_graph_main_graph_1163447892624144653_0_0"


class Compiled:
    """A device that reports one node for the whole model, as TensorRT does."""

    def __init__(self, device, share: float = 1.0) -> None:
        self.device, self.spec, self.share = device, device.spec, share

    def ask(self, request):
        answer = self.device.ask(request)
        models = tuple(
            model.model_copy(
                update={
                    "nodes": (
                        NodeCosts(
                            name=TENSORRT,
                            operator=TENSORRT.partition("_")[2].rpartition("_")[0],
                            provider="TensorrtExecutionProvider",
                            values=tuple(self.share * run for run in model.runs),
                        ),
                    )
                    if request.task == "layers"
                    else ()
                }
            )
            for model in answer.models
        )
        return answer.model_copy(update={"models": models})


class Recorded:
    """A device whose profiled runs are those of the trace."""

    def __init__(self, device) -> None:
        self.device, self.spec = device, device.spec

    def ask(self, request):
        answer = self.device.ask(request)
        runs = tuple(event["dur"] for event in EVENTS if event["cat"] == "Session")[WARMUP:]
        if request.task == "layers":
            model = ModelAnswer(
                name="m", load_seconds=0.0, warmup=WARMUP, **WORK["_nodes"](EVENTS, WARMUP)
            )
        else:
            model = answer.models[0].model_copy(update={"values": runs})
        return answer.model_copy(update={"models": (model,)})


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    """The model of the trace: conv - relu - hardmax - conv - conv."""
    random = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 16, 1, 1), "w3": (8, 16, 1, 1)}
    weights = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first/Conv", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="first/Relu"),
        helper.make_node("Hardmax", ["b"], ["c"], name="middle/Hardmax", axis=1),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="second/Conv"),
        helper.make_node("Conv", ["d", "w3"], ["e"], name="third/Conv"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, 32, 32))
        for name, channels in (("x", 3), ("e", 8))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_recorded_session_keeps_what_can_be_told_apart(simulated, traced) -> None:
    profile = profile_model(Recorded(simulated()), traced, name="m", processes=1, seconds=0.0)
    middle, row = profile.layers
    assert (middle.name, middle.inside) == ("middle", ())
    assert row.inside == ("first", "second", "third")
    assert row.name == "3 layers inside OpenVINO"
    pieces = [
        [e["dur"] for e in EVENTS if e["name"].startswith(f"OpenVINOExecutionProvider_{name}")]
        for name in ("OpenVINO-EP-subgraph_1_0", "OpenVINO-EP-subgraph_2_1")
    ]
    both = np.sum(pieces, axis=0)[WARMUP:]
    assert row.cost == profile.sub_graphs == pytest.approx(float(np.median(both)))
    assert row.macs == 16 * 27 * 1024 + 16 * 16 * 1024 + 16 * 8 * 1024
    assert profile.costs == {"middle": middle.cost}
    assert profile.sum_of_layers == middle.cost > 0
    assert profile.coverage == pytest.approx(
        middle.cost / max(profile.total, middle.cost + row.cost)
    )
    assert profile.rest == pytest.approx(profile.total - middle.cost - row.cost)
    (warning,) = [w for w in profile.warnings if "not covered" in w]
    assert "OpenVINO runs 3 layers in 2 pieces" in warning
    assert warning.endswith("first, second, third")


def test_a_model_in_one_piece_is_not_covered_at_all(simulated, exported) -> None:
    profile = profile_model(Compiled(simulated(), 0.9), exported("plain"), name="m", rounds=3)
    (row,) = profile.layers
    assert row.inside == tuple(s.name for s in read_graph(exported("plain")).segments)
    assert row.cost == pytest.approx(0.9 * profile.total)
    assert (profile.coverage, profile.layout, profile.costs) == (0.0, 0.0, {})
    assert "layers inside Tensorrt" in render(profile)
    names = [e["name"] for e in json.loads(chrome_trace(profile))["traceEvents"] if e["ph"] == "X"]
    assert names == [TENSORRT, row.name]


MODELS = ["residual", "separable", "mlp", "decoder", "sigmoid", "plain", "flattened", "conv1d"]


@pytest.mark.parametrize("name", MODELS)
def test_layers_in_one_piece_are_priced_as_models_of_their_own(
    simulated, exported, groups_of, name: str
) -> None:
    device, path = Compiled(simulated()), exported(name)
    profile = profile_model(device, path, name=name, processes=1, rounds=2)
    table = build_table(device, read_graph(path), groups_of(name).groups, profile, processes=1)
    assert min(price.cost for price in table.prices) > 0
    assert {price.layer for price in table.prices} == {s.name for s in read_graph(path).segments}
    assert table.scale == pytest.approx(1.0, rel=1e-3)  # the staircase is known: prices add up
    assert predicted_cost(table, {}) == pytest.approx(profile.total, rel=1e-9)


def test_a_layer_that_cannot_be_priced_alone_is_an_error_and_not_free(
    simulated, exported, groups_of, monkeypatch
) -> None:
    device, path = Compiled(simulated()), exported("plain")
    profile = profile_model(device, path, name="m", processes=1, rounds=2)
    ask = device.ask

    def refuse(request):
        answer = ask(request)
        if request.task == "layers" and len(request.models) > 1:
            models = tuple(m.model_copy(update={"nodes": ()}) for m in answer.models)
            return answer.model_copy(update={"models": models})
        return answer

    monkeypatch.setattr(device, "ask", refuse)
    with pytest.raises(UnsupportedModelError, match="no node for probe"):
        build_table(device, read_graph(path), groups_of("plain").groups, profile, processes=1)
