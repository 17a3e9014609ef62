from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from edgeprune.devices.protocol import NodeCosts
from edgeprune.devices.simulated import segment_cost
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import ANCHORS, read_graph
from edgeprune.profiler.layers import attribute, profile_model
from edgeprune.profiler.sub_graphs import not_layout

MODELS = [
    "plain",
    "residual",
    "concat",
    "separable",
    "mlp",
    "conv1d",
    "flattened",
    "decoder",
    "tokens",
]


@pytest.mark.parametrize("name", MODELS)
def test_an_exact_device_is_profiled_exactly(simulated, exported, name: str) -> None:
    device = simulated()
    profile = profile_model(device, exported(name), name=name, processes=2, rounds=3)
    graph = read_graph(exported(name))
    wanted = {s.name: segment_cost(s, device.spec.simulation) for s in graph.segments}
    assert {layer.name: layer.cost for layer in profile.layers} == pytest.approx(wanted)
    assert profile.total == pytest.approx(sum(wanted.values()))
    assert profile.coverage == pytest.approx(1.0)
    assert profile.layout == 0.0
    assert (profile.macs, profile.parameters) == (graph.macs, graph.parameters)
    assert profile.peak_activation_bytes == graph.peak_activation_bytes()
    assert profile.file_bytes == exported(name).stat().st_size
    assert (profile.device, profile.kind, profile.unit) == ("simulated", "estimated", "us")
    for layer in profile.layers:
        assert layer.low == pytest.approx(layer.cost) == layer.high


def test_noise_shows_as_intervals(simulated, exported) -> None:
    profile = profile_model(simulated(noise=0.1), exported("plain"), name="m", rounds=20)
    assert profile.total_low < profile.total < profile.total_high
    assert all(layer.low < layer.cost < layer.high for layer in profile.layers)


@pytest.fixture(scope="module")
def measured(local, exported):
    """Model -> its profile on this machine."""
    made = {}

    def of(name: str):
        if name not in made:
            made[name] = profile_model(
                local, exported(name), name=name, processes=2, rounds=20, seconds=0.0
            )
        return made[name]

    return of


@pytest.fixture(scope="module")
def large(local, build, tmp_path_factory):
    """A profile beside whose layers of a hundred microseconds the profiler itself is nothing."""
    path = tmp_path_factory.mktemp("large") / "residual.onnx"
    export(build("residual")[0], (torch.randn(1, 3, 96, 96),), path, opset=20)
    return profile_model(local, path, name="residual", processes=2, rounds=20, seconds=0.0)


@pytest.mark.parametrize("name", ["residual", "separable", "mlp", "tokens", "decoder"])
def test_every_weighted_layer_has_a_cost_on_this_machine(measured, name: str) -> None:
    """onnxruntime names its fused nodes in ways of its own; each must find its torch layer."""
    profile = measured(name)
    weighted = {layer.name: layer for layer in profile.layers if layer.operator in ANCHORS}
    assert len(weighted) >= 3
    assert [layer.name for layer in weighted.values() if not layer.cost > 0] == []
    for layer in weighted.values():
        assert layer.low <= layer.cost <= layer.high


class Attention(nn.Module):
    """What onnxruntime fuses most: scaled and transposed products, biases, splits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 32), nn.Linear(32, 4)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


def test_fused_products_of_attention_belong_to_their_layers(local, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(Attention().eval(), (torch.randn(1, 16, 12),), path, opset=20)
    profile = profile_model(local, path, name="m", processes=1, rounds=5, seconds=0.0)
    assert [layer.name for layer in profile.layers if layer.macs and not layer.cost] == []
    assert {"embed", "head", "attention.out_proj"} <= set(profile.costs)
    stray = {part.operator for part in profile.timeline if part.layer is None}
    assert stray <= {"Squeeze", "Transpose", "Reshape"}


def test_work_that_no_layer_claims_is_not_called_layout() -> None:
    nodes = tuple(
        NodeCosts(name="fresh", operator=operator, provider="CPUExecutionProvider", values=(1.0,))
        for operator in ("FusedMatMul", "Attention", "Reshape", "ReorderInput")
    )
    assert [not_layout(node) for node in nodes] == [True, True, False, False]


def test_layers_explain_most_of_the_run_on_this_machine(large) -> None:
    profile = large
    assert 0.3 <= profile.coverage <= 1.0
    assert profile.kind == "measured"
    assert profile.total_low <= profile.total <= profile.total_high
    assert (profile.processes, profile.runs >= 20) == (2, True)


@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_layers_layout_and_rest_add_up_to_the_total(measured, name: str) -> None:
    profile = measured(name)
    assert profile.sum_of_layers == pytest.approx(sum(layer.cost for layer in profile.layers))
    parts = profile.sum_of_layers + profile.layout + profile.rest
    assert parts == pytest.approx(profile.total)
    assert profile.coverage == pytest.approx(
        profile.sum_of_layers / max(profile.total, profile.sum_of_layers + profile.layout)
    )
    assert 0 < profile.node_overhead < 1000
    assert 0 < profile.call < 10_000


@pytest.mark.parametrize("name", ["residual", "separable", "decoder"])
def test_the_runtime_takes_the_memory_that_lifetimes_of_tensors_say(measured, name: str) -> None:
    profile = measured(name)
    assert profile.runtime_peak_bytes is not None
    assert profile.runtime_peak_bytes == pytest.approx(profile.peak_activation_bytes, rel=0.01)
    assert profile.resident_peak_bytes is not None
    assert profile.resident_peak_bytes > 0
    assert profile.load_seconds > 0


def test_no_layer_is_faster_than_the_peaks_allow(large) -> None:
    profile = large
    assert profile.peaks is not None
    assert profile.peaks.flops_per_second > 1e8
    assert len(profile.peaks.bandwidths) == 3
    for layer in profile.layers:
        if layer.cost:
            assert layer.flops_per_second == pytest.approx(2e6 * layer.macs / layer.cost)
            assert layer.bytes_per_second == pytest.approx(1e6 * layer.moved_bytes / layer.cost)
            assert layer.limit_cost <= 1.5 * layer.cost
            assert layer.bound in ("compute", "memory")


def test_the_timeline_is_one_run_in_order(measured, exported) -> None:
    profile = measured("residual")
    starts = [part.start for part in profile.timeline]
    assert starts == sorted(starts)
    assert starts[0] >= 0
    ends = [part.start + part.duration for part in profile.timeline]
    assert all(end <= start + 1 for end, start in zip(ends, starts[1:], strict=False))
    named = {part.layer for part in profile.timeline} - {None}
    assert named == {layer.name for layer in profile.layers if layer.cost}


def test_a_profile_that_does_not_settle_is_called_unstable(simulated, exported) -> None:
    device = simulated(noise=0.02, process_noise=0.4, seed=3)
    profile = profile_model(
        device, exported("plain"), name="m", rounds=5, seconds=3.0, clock=lambda: device.elapsed
    )
    assert profile.stopped == "unstable"
    assert profile.total_high / profile.total_low > 1.3
    assert any("slowest process" in warning for warning in profile.warnings)
    what, hint = profile.unsettled()
    assert "m on simulated" in what
    assert "--seconds" in hint


def test_a_steady_device_needs_the_fewest_processes(simulated, exported) -> None:
    profile = profile_model(simulated(noise=0.01), exported("plain"), name="m", rounds=20)
    assert (profile.stopped, profile.processes, profile.warnings) == ("enough", 3, ())


def times(name: str, operator: str = "Conv") -> NodeCosts:
    return NodeCosts(name=name, operator=operator, provider="p", values=(1.0, 2.0))


def test_nodes_find_their_layer_by_any_of_its_names(exported) -> None:
    graph = read_graph(exported("residual"))
    stem = next(s for s in graph.segments if s.name == "stem")
    head = next(s for s in graph.segments if s.name == "head")
    nodes = (
        times("stem/Conv"), times(f"{stem.output}_nchwc"), times(f"fused {head.nodes[0].name}"),
        times("a1/Conv_token_7"), times("ReorderInput_3", "ReorderInput"), times("something else"),
    )  # fmt: skip
    owned, unowned = attribute(graph, nodes)
    assert {name: [n.name for n in found] for name, found in owned.items()} == {
        "stem": ["stem/Conv", f"{stem.output}_nchwc"],
        "head": [f"fused {head.nodes[0].name}"],
        "a1": ["a1/Conv_token_7"],
    }
    assert [node.name for node in unowned] == ["ReorderInput_3", "something else"]


@pytest.mark.parametrize("where", ["simulated", "local"])
def test_a_file_that_is_no_model(simulated, local, tmp_path: Path, where: str) -> None:
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    device = simulated() if where == "simulated" else local
    with pytest.raises(UnsupportedModelError, match="not an ONNX model") as caught:
        profile_model(device, tmp_path / "m.onnx", name="m")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("where", ["simulated", "local"])
def test_a_dynamic_shape_is_unsupported(simulated, local, tmp_path: Path, where: str) -> None:
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s])
        for n, s in (("x", 4), ("y", 3))
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [0.5] * 12)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "m.onnx",
    )
    device = simulated() if where == "simulated" else local
    with pytest.raises(UnsupportedModelError, match="fixed shape"):
        profile_model(device, tmp_path / "m.onnx", name="m")


def test_times_that_mean_nothing_need_not_settle(simulated, exported) -> None:
    device = simulated(process_noise=0.4)
    asked = {"name": "m", "processes": 3, "rounds": 3, "seconds": 0.0, "settle": 0.001}
    assert profile_model(device, exported("plain"), **asked).stopped == "unstable"
    device.spec = device.spec.model_copy(update={"functional_only": True})
    assert profile_model(device, exported("plain"), **asked).stopped == "time"


def test_files_of_weights_count_to_the_size(simulated, exported, tmp_path: Path) -> None:
    proto, path = onnx.load(exported("plain")), tmp_path / "apart.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    graph, weights = path.stat().st_size, (tmp_path / "weights.bin").stat().st_size
    assert weights > graph
    assert profile_model(simulated(), path, name="m").file_bytes == graph + weights
