"""Recurrent layers: exported with their weights in place, read as layers, priced at any width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeprune.cost.table import PriceList, build_table, predicted_cost
from edgeprune.devices.simulated import segment_cost
from edgeprune.export.fragments import fragment, template
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.shrink import shrink

KINDS = {"LSTM": (nn.LSTM, 4), "GRU": (nn.GRU, 3)}  # torch.onnx writes nn.RNN step by step
STEPS, INPUT, HIDDEN = 5, 6, 16


class Tagger(nn.Module):
    """Embedding, recurrent layers, decoder."""

    def __init__(self, kind: str, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, INPUT)
        self.first = KINDS[kind][0](INPUT, HIDDEN, layers, batch_first=True)
        self.second = KINDS[kind][0](HIDDEN, HIDDEN, batch_first=True)
        self.decoder = nn.Linear(HIDDEN, 7)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.first(self.embedding(x))
        hidden, _ = self.second(hidden)
        return self.decoder(hidden)


def a_tagger(kind: str, layers: int = 1) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Tagger(kind, layers).eval(), (torch.arange(STEPS)[None],)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_put_in_order_once(kind, tmp_path: Path) -> None:
    model, inputs = a_tagger(kind)
    path = tmp_path / "model.onnx"
    size = export(model, inputs, path, opset=20).file_bytes
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"Slice", "Concat", "Unsqueeze"}
    assert size < 4 * sum(p.numel() for p in model.parameters()) + 6000  # no weight twice
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": inputs[0].numpy()})
    np.testing.assert_allclose(found, model(*inputs).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_layer_that_is_called_twice_are_stored_once(kind, tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = KINDS[kind][0](48, 32, batch_first=True)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a)[0] - self.layer(b)[0]

    torch.manual_seed(0)
    model, inputs = Both().eval(), (torch.randn(1, 5, 48), torch.randn(1, 5, 48))
    size = export(model, inputs, tmp_path / "model.onnx", opset=20).file_bytes
    assert size < 4 * sum(p.numel() for p in model.parameters()) + 6000
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    given = {f"input_{i}": tensor.numpy() for i, tensor in enumerate(inputs)}
    (found,) = session.run(None, given)
    np.testing.assert_allclose(found, model(*inputs).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrent_layer_bears_its_name_and_counts_its_work(kind, tmp_path: Path) -> None:
    model, inputs = a_tagger(kind)
    export(model, inputs, tmp_path / "model.onnx", opset=20)
    segments = {s.name: s for s in read_graph(tmp_path / "model.onnx").segments}
    gates = KINDS[kind][1]
    assert segments["first"].operator == segments["second"].operator == kind
    assert segments["first"].macs == STEPS * gates * HIDDEN * (INPUT + HIDDEN)
    assert segments["second"].macs == STEPS * gates * HIDDEN * (HIDDEN + HIDDEN)
    states = HIDDEN  # the initial states are constants
    weights = sum(p.numel() for p in model.first.parameters())
    assert segments["first"].parameters == pytest.approx(weights, abs=2 * states)


@pytest.mark.parametrize(("width_in", "width_out"), [(INPUT, HIDDEN), (3, 16), (6, 5), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fragment_runs_at_other_widths(kind, width_in, width_out, tmp_path: Path) -> None:
    model, inputs = a_tagger(kind)
    export(model, inputs, tmp_path / "model.onnx", opset=20)
    graph = read_graph(tmp_path / "model.onnx")
    layer = template(graph, next(s for s in graph.segments if s.name == "first"))
    assert (layer.width_in, layer.width_out, layer.resizable) == (INPUT, HIDDEN, True)
    session = onnxruntime.InferenceSession(
        fragment(layer, width_in, width_out), providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    assert given.shape == [STEPS, 1, width_in]
    (found,) = session.run(None, {given.name: np.ones(given.shape, np.float32)})
    assert found.shape == (STEPS, 1, 1, width_out)


@pytest.mark.parametrize(("kind", "layers"), [("LSTM", 1), ("LSTM", 2), ("GRU", 1), ("GRU", 2)])
def test_plans_of_recurrent_layers_are_predicted_exactly(
    simulated, make_plan, tmp_path: Path, kind, layers
) -> None:
    model, inputs = a_tagger(kind, layers)
    groups = find_groups(model, inputs)
    assert {group.name for group in groups.groups} == {"first", "second"}
    device = simulated(overhead_us=0.0, macs_per_us=100.0, step=4)
    export(model, inputs, tmp_path / "dense.onnx", opset=20)
    profile = profile_model(device, tmp_path / "dense.onnx", name="tagger", seed=0)
    table = build_table(device, read_graph(tmp_path / "dense.onnx"), groups.groups, profile)
    chosen = {"first": table.widths["first"][0], "second": table.widths["second"][1]}
    slim = shrink(model, inputs, make_plan(groups, chosen))
    export(slim, inputs, tmp_path / "slim.onnx", opset=20)
    cost = sum(
        segment_cost(s, device.spec.simulation)
        for s in read_graph(tmp_path / "slim.onnx").segments
        if s.operator == kind
    )
    price = PriceList.of(table)
    predicted = sum(
        price(
            layer.name,
            chosen.get(layer.group_in or "", layer.width_in),
            chosen.get(layer.group_out or "", layer.width_out),
        )
        for layer in table.layers
        if layer.operator == kind
    )
    assert predicted == pytest.approx(cost, rel=1e-9)
    assert predicted_cost(table, chosen) < 0.9 * table.dense_cost
