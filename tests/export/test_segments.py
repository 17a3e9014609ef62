from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.errors import UnsupportedModelError
from edgeprune.export.segments import Graph, read_graph

FLOAT = TensorProto.FLOAT


@pytest.fixture
def graph_of(tmp_path: Path):
    """(nodes, shapes of inputs, outputs, weights) -> the graph."""

    def made(nodes, inputs: dict, outputs: list[str], weights: dict | None = None) -> Graph:
        initializers = [
            helper.make_tensor(n, FLOAT, s, [0.1] * math.prod(s))
            for n, s in (weights or {}).items()
        ]
        proto = helper.make_graph(
            nodes, "g",
            [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs],
            initializers,
        )  # fmt: skip
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)])
        onnx.save(model, tmp_path / "g.onnx")
        return read_graph(tmp_path / "g.onnx")

    return made


def node(operator: str, inputs: str, output: str, **attributes):
    return helper.make_node(
        operator, inputs.split(), [output], name=f"{output}/{operator}", **attributes
    )


def test_layers_of_the_residual_network(exported) -> None:
    segments = {s.name: s for s in read_graph(exported("residual")).segments}
    fused = {name: [n.op_type for n in s.nodes] for name, s in segments.items() if s.macs}
    assert fused == {
        "stem": ["Conv", "Relu"], "a1": ["Conv", "Relu"], "a2": ["Conv", "Add", "Relu"], "b1": ["Conv", "Relu"],
        "b2": ["Conv"], "project": ["Conv", "Add", "Relu"], "head": ["Gemm"],
    }  # fmt: skip
    assert segments["a2"].addends == [segments["stem"].output]
    assert segments["project"].addends == [segments["b2"].output]


MACS = {
    "plain": {"conv1": 64 * 3 * 16 * 9, "conv2": 16 * 16 * 24 * 9, "head": 240},
    "separable": {"stem": 64 * 3 * 16 * 9, "deep": 16 * 16 * 9, "point": 16 * 16 * 24, "head": 240},
    "mlp": {"0": 640, "2": 768, "4": 240},
    "conv1d": {"0": 32 * 4 * 16 * 5, "3": 30 * 16 * 24 * 3, "7": 240},
    "flattened": {"0": 64 * 3 * 16 * 9, "4": 256 * 24, "6": 240},
    "decoder": {"conv": 16 * 3 * 16 * 9, "up": 16 * 16 * 8 * 4, "out": 64 * 8 * 3 * 9},
    "grouped": {"0": 36 * 3 * 16 * 9, "2": 16 * 16 * 4 * 9, "4": 16 * 16 * 8, "8": 80},
    "tokens": {"embed": 16 * 12 * 16, "one": 16 * 16 * 16, "two": 4 * 16 * 16, "head": 160},
}


@pytest.mark.parametrize("name", MACS)
def test_multiply_accumulates_are_those_of_the_formulas(exported, name: str) -> None:
    graph = read_graph(exported(name))
    assert {s.name: s.macs for s in graph.segments if s.macs} == MACS[name]
    assert graph.macs == sum(MACS[name].values())


@pytest.mark.parametrize(
    ("name", "unfolded"),
    [
        ("mlp", 0),
        ("flattened", 0),
        ("tokens", 0),
        ("plain", 0),
        ("prelu_channels", 0),
        ("sigmoid", 0),
        ("concat", 0),
    ],
)
def test_parameters_are_those_of_torch(build, exported, name: str, unfolded: int) -> None:
    model, _ = build(name)
    wanted = sum(p.numel() for p in model.parameters())
    if name == "plain":
        wanted -= 2 * (16 + 24)  # folded into convolutions that have a bias of their own
    if name == "concat":
        wanted += 2 * 24  # mean and variance of a BatchNorm that could not be folded
    graph = read_graph(exported(name))
    assert graph.parameters == wanted
    assert sum(s.parameter_bytes for s in graph.segments) == 4 * wanted


def test_shapes_and_bytes(exported) -> None:
    graph = read_graph(exported("plain"))
    conv = next(s for s in graph.segments if s.name == "conv2")
    assert (conv.input_shape, conv.output_shape) == ((1, 16, 8, 8), (1, 24, 4, 4))
    assert conv.activation_bytes == 4 * 24 * 16
    assert (graph.inputs, graph.outputs) == (("input",), ("output",))
    assert {"conv2", "conv2/Conv", conv.output} <= conv.aliases


def test_every_node_belongs_to_one_layer_and_layers_have_names_of_their_own(exported) -> None:
    for name in ("residual", "concat", "shuffled", "conv1d", "tokens"):
        graph = read_graph(exported(name))
        nodes = [n.name for s in graph.segments for n in s.nodes]
        assert sorted(nodes) == sorted(n.name for n in onnx.load(exported(name)).graph.node)
        names = [s.name for s in graph.segments]
        assert len(set(names)) == len(names)


def test_layers_stand_in_an_order_in_which_they_can_run(exported) -> None:
    for name in ("residual", "concat", "tokens"):
        graph = read_graph(exported(name))
        known = set(graph.inputs)
        for segment in graph.segments:
            assert {*segment.inputs, *segment.addends} <= known
            known.add(segment.output)


def test_a_value_with_two_readers_ends_its_layer(graph_of) -> None:
    graph = graph_of(
        [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Add", "a b", "c")],
        {"x": [1, 2, 4, 4]}, ["c"], {"w": [3, 2, 1, 1]},
    )  # fmt: skip
    assert [[n.op_type for n in s.nodes] for s in graph.segments] == [["Conv"], ["Relu"], ["Add"]]


def test_an_output_of_the_model_ends_its_layer(graph_of) -> None:
    graph = graph_of(
        [node("Conv", "x w", "a"), node("Relu", "a", "b")],
        {"x": [1, 2, 4, 4]},
        ["a", "b"],
        {"w": [3, 2, 1, 1]},
    )
    assert [[n.op_type for n in s.nodes] for s in graph.segments] == [["Conv"], ["Relu"]]


def test_a_layer_called_twice_gets_two_names(graph_of) -> None:
    first = helper.make_node("Conv", ["x", "w"], ["a"], name="same/Conv")
    second = helper.make_node("Conv", ["a", "w"], ["b"], name="same/Conv_2")
    names = [
        s.name
        for s in graph_of([first, second], {"x": [1, 2, 4, 4]}, ["b"], {"w": [2, 2, 1, 1]}).segments
    ]
    assert names[0] == "same"
    assert len(set(names)) == 2


def test_peak_of_a_chain_is_its_widest_step(graph_of) -> None:
    graph = graph_of(
        [node("Conv", "x w1", "a"), node("Conv", "a w2", "b"), node("Conv", "b w3", "c")],
        {"x": [1, 1, 10, 10]}, ["c"], {"w1": [4, 1, 1, 1], "w2": [8, 4, 1, 1], "w3": [1, 8, 1, 1]},
    )  # fmt: skip
    assert graph.peak_activation_bytes() == 4 * 100 * (4 + 8)


def test_peak_counts_a_skip_connection_while_it_waits(graph_of) -> None:
    nodes = [
        node("Conv", "x w1", "a"), node("Conv", "a w2", "b"), node("Conv", "b w2", "c"), node("Add", "c a", "d"),
    ]  # fmt: skip
    graph = graph_of(nodes, {"x": [1, 1, 10, 10]}, ["d"], {"w1": [4, 1, 1, 1], "w2": [4, 4, 1, 1]})
    assert graph.peak_activation_bytes() == 4 * 100 * (4 + 4)  # a waits for b and is written over


def test_peak_of_fused_layers_has_no_inner_tensors(graph_of) -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b")]
    graph = graph_of(nodes, {"x": [1, 1, 10, 10]}, ["b"], {"w": [4, 1, 1, 1]})
    assert graph.peak_activation_bytes() == 4 * 100 * (1 + 4)


def test_peak_counts_inputs_until_they_are_read(graph_of) -> None:
    nodes = [node("Conv", "x w", "a"), node("Conv", "a v", "b"), node("Add", "b y", "c")]
    weights = {"w": [4, 1, 1, 1], "v": [1, 4, 1, 1]}
    graph = graph_of(nodes, {"x": [1, 1, 10, 10], "y": [1, 1, 10, 10]}, ["c"], weights)
    assert graph.peak_activation_bytes() == 4 * 100 * max(1 + 1 + 4, 1 + 4 + 1)


def test_operands_that_are_no_weights_do_not_count_as_parameters(exported) -> None:
    for name, operator in (("tokens", "Slice"), ("shuffled", "Reshape"), ("conv1d", "Unsqueeze")):
        found = [s for s in read_graph(exported(name)).segments if s.operator == operator]
        assert found
        assert [s.parameters for s in found] == [0] * len(found)


def test_a_product_of_two_activations_has_its_multiply_accumulates(graph_of) -> None:
    graph = graph_of([node("MatMul", "x y", "z")], {"x": [2, 5, 7], "y": [2, 7, 3]}, ["z"])
    assert graph.macs == 2 * 5 * 7 * 3


def test_a_graph_whose_shapes_are_not_fixed_is_refused(tmp_path: Path, graph_of) -> None:
    with pytest.raises(UnsupportedModelError, match="fixed shape"):
        graph_of([node("Conv", "x w", "a")], {"x": ["batch", 2, 4, 4]}, ["a"], {"w": [3, 2, 1, 1]})


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    with pytest.raises(UnsupportedModelError, match="not an ONNX model"):
        read_graph(tmp_path / "m.onnx")
