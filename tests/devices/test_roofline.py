"""The roofline against cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.devices.opening import open_device
from edgeprune.devices.protocol import Request, file_of
from edgeprune.devices.roofline import RooflineDevice, segment_cost, segment_work
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError, JobError
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.timing import compare
from edgeprune.records import Roofline

# 100 GFLOP/s and 10 GB/s reached: a microsecond does 10^5 operations, or moves 10^4 bytes.
ROOF = Roofline(
    of="hand", peak_gflops=200.0, bandwidth_gbs=20.0, tile=8, compute_efficiency=0.5,
    bandwidth_efficiency=0.5, overhead_us=3.0,
)  # fmt: skip


def saved(path: Path, nodes: list, shapes: dict[str, tuple], weights: dict[str, tuple]) -> Path:
    """Write a graph from x to y; `shapes` holds those of all activations."""
    info = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()}
    graph = helper.make_graph(
        nodes, "g", [info.pop("x")], [info.pop("y")],
        [numpy_helper.from_array(np.zeros(s, np.float32), n) for n, s in weights.items()],
        value_info=list(info.values()),
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def convolution(path: Path, cin: int, cout: int, size: int, kernel: int, group: int = 1) -> Path:
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], name="conv", pads=[kernel // 2] * 4, group=group
    )
    shapes = {"x": (1, cin, size, size), "y": (1, cout, size, size)}
    return saved(path, [node], shapes, {"w": (cout, cin // group, kernel, kernel), "b": (cout,)})


def cost(path: Path, roof: Roofline = ROOF) -> float:
    graph = read_graph(path)
    (segment,) = graph.segments
    return segment_cost(graph, segment, roof)


def test_a_convolution_bound_by_computing(tmp_path: Path) -> None:
    path = convolution(tmp_path / "c.onnx", 64, 128, 16, 3)
    # 2 * 64 * 128 * 9 * 256 = 37,748,736 operations at 10^5 a microsecond = 377.49 us; its bytes,
    # 4 * (64 * 256 + 128 * 256 + 64 * 128 * 9 + 128) = 492,032, take 49.2 us.
    assert cost(path) == pytest.approx(3.0 + 377.48736)


def test_a_convolution_bound_by_memory(tmp_path: Path) -> None:
    path = convolution(tmp_path / "c.onnx", 8, 8, 64, 1)
    # 2 * 8 * 8 * 4096 = 524,288 operations take 5.2 us;
    # 4 * (8 * 4096 + 8 * 4096 + 64 + 8) = 262,432 bytes at 10^4 a microsecond = 26.24 us.
    assert cost(path) == pytest.approx(3.0 + 26.2432)


@pytest.mark.parametrize(
    ("cin", "cout", "group", "padded"),
    [
        (64, 64, 1, 64 * 64),
        (63, 64, 1, 64 * 64),
        (64, 57, 1, 64 * 64),
        (64, 56, 1, 64 * 56),
        (1, 32, 1, 8 * 32),
        (32, 48, 2, 2 * 16 * 24),
        (24, 24, 2, 2 * 16 * 16),
        (20, 20, 20, 24),  # depthwise: no sum over channels to pad
    ],
)
def test_channels_are_padded_to_the_tile(tmp_path: Path, cin, cout, group, padded) -> None:
    graph = read_graph(convolution(tmp_path / "c.onnx", cin, cout, 4, 3, group))
    work = segment_work(graph, graph.segments[0], 8)
    assert work.flop == 2 * padded * 9 * 16
    # bytes are those of the real widths
    assert work.bytes == 4 * (16 * (cin + cout) + cout * cin // group * 9 + cout)


def test_without_padding_every_width_counts(tmp_path: Path) -> None:
    graph = read_graph(convolution(tmp_path / "c.onnx", 13, 17, 4, 3))
    assert segment_work(graph, graph.segments[0], 1).flop == 2 * 13 * 17 * 9 * 16


def test_what_is_fused_behind_a_convolution_moves_nothing_but_its_addend(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Conv", ["a", "v"], ["b"], name="last"),
        helper.make_node("Add", ["b", "a"], ["c"], name="add"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    shape = (1, 8, 4, 4)
    path = saved(
        tmp_path / "r.onnx", nodes, dict.fromkeys(("x", "a", "b", "c", "y"), shape),
        {"w": (8, 8, 1, 1), "v": (8, 8, 1, 1)},
    )  # fmt: skip
    graph = read_graph(path)
    first, last = graph.segments
    assert [s.operator for s in (first, last)] == ["Conv", "Conv"]
    assert segment_work(graph, first, 8).bytes == 4 * (128 + 128 + 64)
    assert segment_work(graph, last, 8).bytes == 4 * (128 + 128 + 128 + 64)  # a is read twice


def test_other_operators_cost_their_bytes_and_views_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="head", transB=1),
    ]
    shapes = {"x": (1, 12, 32, 32), "p": (1, 12, 1, 1), "f": (1, 12), "y": (1, 10)}
    path = saved(tmp_path / "t.onnx", nodes, shapes, {"w": (10, 12)})
    graph = read_graph(path)
    pool, flat, head = (segment_cost(graph, s, ROOF) for s in graph.segments)
    assert pool == pytest.approx(3.0 + 4 * (12 * 1024 + 12) / 1e4)
    assert flat == 0.0
    # 2 * 16 * 16 = 512 operations take 0.005 us, 4 * (12 + 10 + 120) = 568 bytes 0.057 us
    assert head == pytest.approx(3.0 + 0.0568)
    assert segment_work(graph, graph.segments[2], 8).flop == 512


@pytest.fixture
def device() -> RooflineDevice:
    spec = load_spec("edge_gpu").model_copy(
        update={"runtime": "roofline", "transport": "roofline", "figure": "estimated", "roofline": ROOF}
    )  # fmt: skip
    return RooflineDevice(spec)


def test_it_is_asked_once_and_its_layers_add_up(device, exported) -> None:
    assert device.spec.exact
    profile = profile_model(device, exported("residual"), name="residual")
    assert (profile.kind, profile.unit, profile.coverage) == ("estimated", "us", 1.0)
    assert profile.total == pytest.approx(sum(layer.cost for layer in profile.layers))
    assert profile.total == profile.total_low == profile.total_high
    assert profile.environment.facts["peak_gflops"] == "200.0"


def test_a_comparison_takes_one_pair(device, exported) -> None:
    comparison, _ = compare(device, exported("residual"), exported("plain"))
    wanted = []
    for name in ("residual", "plain"):
        graph = read_graph(exported(name))
        wanted.append(sum(segment_cost(graph, s, ROOF) for s in graph.segments))
    assert comparison.median == comparison.low == comparison.high
    assert comparison.median == pytest.approx(wanted[0] / wanted[1])
    assert (comparison.pairs, comparison.stopped) == (1, "exact")


def test_it_computes_no_outputs(device, exported) -> None:
    request = Request(task="run", models=(file_of("m", exported("mlp")),))
    with pytest.raises(DeviceError, match="it computes costs, not outputs"):
        device.ask(request)


def test_a_profile_without_numbers(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(
        'title = "t"\nkind = "gpu"\nruntime = "roofline"\ntransport = "roofline"\nunit = "us"\n'
        'figure = "estimated"\n'
    )
    with pytest.raises(JobError, match=r"needs a section \[roofline\]"):
        open_device(str(path))
