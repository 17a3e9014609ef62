from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeprune.cost.probes import kind_of
from edgeprune.export.fragments import fragment, template
from edgeprune.export.onnx_graph import export
from edgeprune.export.precision import Precision
from edgeprune.export.segments import read_graph

# (model, layer, width of the group that feeds it, does it feed a group?, does it keep its channels?)
RESIZABLE = [
    ("plain", "conv1", None, False), ("plain", "conv2", 16, False), ("plain", "head", 24, False),
    ("plain", "pool", 24, True), ("separable", "deep", 16, True), ("separable", "point", 16, False),
    ("flattened", "2", 16, True), ("flattened", "4", 16, False), ("conv1d", "3", 16, False),
    ("decoder", "up", 16, False), ("decoder", "out", 8, False), ("mlp", "2", 32, False),
    ("tokens", "one", 16, False), ("residual", "ReduceMean", 24, True), ("residual", "a2", 16, False),
]  # fmt: skip


@pytest.fixture(scope="module")
def templates(exported):
    def of(name: str, layer: str, width: int | None = None):
        graph = read_graph(exported(name))
        return template(graph, next(s for s in graph.segments if s.name == layer), width)

    return of


def run(content: bytes) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Return the shapes of inputs and output of a model that really runs."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feeds = {v.name: np.ones(v.shape, np.float32) for v in session.get_inputs()}
    (answer,) = session.run(None, feeds)
    assert np.isfinite(answer).all()
    return [tuple(v.shape) for v in session.get_inputs()], answer.shape


@pytest.mark.parametrize(("name", "layer", "group", "keeps"), RESIZABLE)
def test_fragments_run_at_other_widths(templates, name, layer, group, keeps) -> None:
    shape = templates(name, layer, group)
    assert shape.resizable
    axis = -1 if shape.segment.operator in ("Gemm", "MatMul") else 1
    pairs = [(5, 5), (1, 1)] if keeps else [(5, 7), (shape.width_in, 3), (1, shape.width_out)]
    for width_in, width_out in [*pairs, (shape.width_in, shape.width_out)]:
        inputs, output = run(fragment(shape, width_in, width_out))
        assert inputs[0][axis] == width_in * shape.flat
        assert output[-1 if len(output) == 2 else axis] == width_out


@pytest.mark.parametrize(("name", "layer", "group", "keeps"), RESIZABLE)
def test_at_dense_widths_a_fragment_is_the_layer(templates, name, layer, group, keeps) -> None:
    shape = templates(name, layer, group)
    inputs, output = run(fragment(shape, shape.width_in, shape.width_out))
    assert inputs == [shape.segment.input_shape]
    assert output == shape.segment.output_shape


def test_widths_of_templates(templates) -> None:
    conv = templates("plain", "conv2", 16)
    assert (conv.width_in, conv.width_out, conv.flat, conv.depthwise) == (16, 24, 1, False)
    deep = templates("separable", "deep", 16)
    assert (deep.width_in, deep.width_out, deep.depthwise) == (16, 16, True)
    flat = templates("flattened", "4", 16)
    assert (flat.width_in, flat.width_out, flat.flat) == (16, 24, 16)


def test_the_activation_stays_and_a_fused_add_goes(templates) -> None:
    model = onnx.load_from_string(fragment(templates("residual", "a2", 16), 16, 16))
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu"]
    clipped = onnx.load_from_string(fragment(templates("separable", "deep", 16), 6, 6))
    assert [node.op_type for node in clipped.graph.node] == ["Conv", "Clip"]
    assert next(a.i for a in clipped.graph.node[0].attribute if a.name == "group") == 6


def test_weights_come_from_the_seed(templates) -> None:
    shape = templates("plain", "conv2", 16)
    assert fragment(shape, 4, 4, seed=1) == fragment(shape, 4, 4, seed=1)
    assert fragment(shape, 4, 4, seed=1) != fragment(shape, 4, 4, seed=2)


@pytest.mark.parametrize(("name", "layer"), [("concat", "Concat"), ("flattened", "3")])
def test_what_has_no_known_shape_logic_has_its_dense_width_only(templates, name, layer) -> None:
    shape = templates(name, layer)
    assert not shape.resizable
    with pytest.raises(ValueError, match="no known shape logic"):
        fragment(shape, 4, 4)


@pytest.mark.parametrize(("width_in", "width_out"), [(16, 16), (8, 16), (16, 4), (4, 12)])
def test_a_grouped_convolution_runs_at_multiples_of_its_groups(
    templates, width_in: int, width_out: int
) -> None:
    shape = templates("grouped", "2")
    _, output = run(fragment(shape, width_in, width_out))
    assert output == (1, width_out, *shape.segment.output_shape[2:])


class Gated(nn.Module):
    """Linear layers over tokens: with bias and activation, gated, added to a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down = (
            nn.Linear(12, 24),
            nn.Linear(12, 24, False),
            nn.Linear(24, 12),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)) * self.gate(x))


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    path = tmp_path_factory.mktemp("gated") / "model.onnx"
    export(Gated().eval(), (torch.randn(1, 6, 12),), path, opset=20)
    return path


def operators(model: Path | bytes, folder: Path) -> Counter[str]:
    """Return the nodes that onnxruntime makes of a model."""
    options, path = onnxruntime.SessionOptions(), folder / "optimized.onnx"
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_bias_and_sum_of_matrices_stay(gated, tmp_path) -> None:
    graph, own = read_graph(gated), Counter[str]()
    found = {}
    for segment in graph.segments:
        shape = template(graph, segment)
        content = fragment(shape, *shape.widths)
        found[segment.name] = [node.op_type for node in onnx.load_from_string(content).graph.node]
        own += operators(content, tmp_path)
    assert len({kind_of(template(graph, segment)) for segment in graph.segments}) == 3
    assert found["up"] == ["MatMul", "Add", "Gelu"]
    assert found["gate"] == ["MatMul", "Mul"]
    assert found["down"] == ["MatMul", "Add", "Add"]
    whole = operators(gated, tmp_path)
    assert {name: own[name] for name in ("Gemm", "MatMul", "Gelu", "Mul", "Add", "Reshape")} == {
        name: whole[name] for name in ("Gemm", "MatMul", "Gelu", "Mul", "Add", "Reshape")
    }


def test_what_a_layer_reads_itself_may_be_added_to_its_result(tmp_path) -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x

    export(Own(12, 12).eval(), (torch.randn(1, 6, 12),), tmp_path / "own.onnx", opset=20)
    graph = read_graph(tmp_path / "own.onnx")
    shape = template(graph, graph.segments[0])
    assert run(fragment(shape, 5, 7)) == ([(1, 6, 5), (1, 6, 7)], (1, 6, 7))


@pytest.mark.parametrize("precision", [Precision(), Precision("int8")])
@pytest.mark.parametrize(("name", "count"), [("up", 1), ("gate", 2), ("down", 2)])
def test_bias_and_sum_have_the_widths_of_the_output(gated, precision, name, count) -> None:
    graph = read_graph(gated)
    shape = template(graph, next(s for s in graph.segments if s.name == name))
    for width_in, width_out in ((5, 7), (1, 3), (shape.width_in, 1), shape.widths):
        inputs, output = run(precision.fragment(fragment(shape, width_in, width_out)))
        assert inputs[0] == (1, 6, width_in)
        others = count - 1 if precision.name == "float32" else 0  # an int8 model has one input
        assert inputs[1:] == [(1, 6, width_out)] * others
        assert output == (1, 6, width_out)
