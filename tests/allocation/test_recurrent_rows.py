"""Rows of recurrent layers: what comes in and what is carried on shrink with different widths."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeprune.allocation.problem import build_problem, flat_curves
from edgeprune.allocation.resources import Model, resource_rows
from edgeprune.cost.table import build_table
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.sections import BudgetSection


class Fed(nn.Module):
    """Recurrent layers behind a linear one; with `twice`, two sequences run through them."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, *, twice: bool) -> None:
        super().__init__()
        self.embed, self.first = nn.Linear(6, 48), kind(48, 32, layers, batch_first=True)
        self.second, self.head = kind(32, 64, batch_first=True), nn.Linear(64, 10)
        self.twice = twice

    def read(self, x: Tensor) -> Tensor:
        hidden, _ = self.first(self.embed(x).relu())
        return self.second(hidden)[0][:, -1]

    def forward(self, x: Tensor) -> Tensor:
        read = self.read(x)
        return self.head(read - self.read(x.flip(1)) if self.twice else read)


@pytest.mark.parametrize(
    ("kind", "layers", "twice"),
    [
        (nn.LSTM, 1, False),
        pytest.param(nn.GRU, 2, False, marks=pytest.mark.slow),
        pytest.param(nn.LSTM, 2, True, marks=pytest.mark.slow),
    ],
)
def test_rows_say_what_the_cut_model_has(
    kind: type[nn.RNNBase], layers: int, twice: bool, simulated, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, inputs = Fed(kind, layers, twice=twice).eval(), (torch.randn(1, 9, 6),)
    groups, path = find_groups(model, inputs).groups, tmp_path / "dense.onnx"
    export(model, inputs, path, opset=20)
    graph, device = read_graph(path), simulated()
    profile = profile_model(device, path, name="fed", processes=1, rounds=2)
    table = build_table(device, graph, groups, profile, processes=1)
    assert list(table.widths) == ["embed", "first", "second"]
    rows = resource_rows(
        BudgetSection(macs="100%", parameters="100%", flash_kb=1e9),
        table,
        Model(model, graph, groups, path.stat().st_size),
    )
    problem = build_problem(table, flat_curves(table), rows)
    for choice in ((0, -1, -1), (-1, 0, -1), (-1, -1, 0), (0, 0, 0)):
        widths = problem.widths_of(choice)
        kept = {name: range(w) for name, w in widths.items()}
        slim = cut(model, inputs, kept)
        export(slim, inputs, tmp_path / "slim.onnx", opset=20)
        used, found = problem.used(choice), read_graph(tmp_path / "slim.onnx")
        assert used["macs"] == pytest.approx(found.macs)
        weights = {s.name: sum(map(math.prod, s.weights.values())) for s in found.segments}
        counted = {one.name: one.weights_at(*one.widths_of(widths)) for one in table.layers}
        assert counted == pytest.approx(weights)
        assert used["parameters"] == pytest.approx(sum(p.numel() for p in slim.parameters()))
        assert used["flash"] == pytest.approx((tmp_path / "slim.onnx").stat().st_size, abs=200)
