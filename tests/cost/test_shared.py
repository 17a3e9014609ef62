"""Layers that run more than once: every call is priced at the widths of its groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeprune.allocation.problem import build_problem, flat_curves
from edgeprune.allocation.resources import Model, activations, resource_rows
from edgeprune.cost.layers import priceable
from edgeprune.cost.table import build_table
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import ANCHORS, as_int8, read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.sub_graphs import sub_graph
from edgeprune.pruning.groups import find_groups
from edgeprune.sections import BudgetSection
from tests.cost.cut_models import rows_hold

Inputs = tuple[Tensor, ...]


class Siamese(nn.Module):
    """Two images through the same convolutions, and the difference of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Linear(24, 10)

    def tower(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu()).relu().mean((2, 3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.tower(a) - self.tower(b))


class Again(nn.Module):
    """A convolution that reads what it wrote, and a depthwise one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1)
        self.up, self.deep = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(self.stem(x).relu()).relu()).relu()
        return self.head(self.deep(self.deep(self.up(x).relu()).relu()).relu().mean((2, 3)))


class Heads(nn.Module):
    """One linear layer over tokens and over their mean: a MatMul and a Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.share = nn.Linear(12, 16), nn.Linear(16, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        return self.head(self.share(x).relu().mean(1) + self.share(x.mean(1)).relu())


class Read(nn.Module):
    """Two sequences through one stack of recurrent layers of as many features as hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack = nn.Linear(12, 16), nn.LSTM(16, 16, 2, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = (self.stack(self.embed(x).relu())[0][:, -1] for x in (a, b))
        return self.head(first - second)


MODELS: dict[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...]]] = {
    "siamese": (Siamese, ((1, 3, 8, 8), (1, 3, 8, 8))),
    "again": (Again, ((1, 3, 8, 8),)),
    "heads": (Heads, ((1, 7, 12),)),
    "read": (Read, ((1, 7, 12), (1, 7, 12))),
}


def made(name: str) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    kind, shapes = MODELS[name]
    return kind().eval(), tuple(torch.randn(shape) for shape in shapes)


@pytest.mark.parametrize("name", ["siamese", "again"])
def test_every_row_says_what_the_cut_model_has(name: str, simulated, tmp_path: Path) -> None:
    model, inputs = made(name)
    groups, path = find_groups(model, inputs).groups, tmp_path / "dense.onnx"
    export(model, inputs, path, opset=20)
    graph, device = read_graph(path), simulated(overhead_us=0.0, macs_per_us=1000.0)
    profile = profile_model(device, path, name=name, processes=1, rounds=2)
    table = build_table(device, graph, groups, profile, processes=1)
    rows = resource_rows(
        BudgetSection(macs="100%", parameters="100%", flash_kb=1e9),
        table,
        Model(model, graph, groups, path.stat().st_size),
    )
    problem = build_problem(table, flat_curves(table), rows)
    alive = activations(table, graph, 1.0)
    assert len(table.widths) == len(groups) == 2
    checked = list(rows_hold(problem, table, model, inputs, device, tmp_path, error=1e-9))
    assert len(checked) == 4
    for choice, true in checked:
        assert max(r.used(choice) for r in alive) == pytest.approx(true.peak_activation_bytes())


@pytest.mark.parametrize(
    ("name", "layer", "ends"),
    [
        ("heads", "share", [("embed", "share")] * 2),
        # the second layer of the stack has weights of the same shape, but reads the stack itself
        ("read", "stack", [("embed", "stack"), ("stack", "stack")] * 2),
    ],
)
def test_each_call_knows_what_it_reads(
    name: str, layer: str, ends: list[tuple[str, str]], tmp_path: Path
) -> None:
    model, inputs = made(name)
    export(model, inputs, tmp_path / "m.onnx", opset=20)
    graph = read_graph(tmp_path / "m.onnx")
    found = priceable(graph, find_groups(model, inputs).groups, pytest.fail)
    calls = {s.name for s in graph.segments if s.layer == layer and s.operator in ANCHORS}
    assert [(la.group_in, la.group_out) for la in found.layers if la.name in calls] == ends


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("siamese", 0),
        ("again", 0),
        ("heads", 16 * 32),  # the file holds the weight of the MatMul and that of the Gemm
        ("read", 16),  # the initial state
    ],
)
def test_shared_weights_count_once(name: str, beside: int, tmp_path: Path) -> None:
    model, inputs = made(name)
    size = export(model, inputs, tmp_path / "m.onnx", opset=20).file_bytes
    graph = read_graph(tmp_path / "m.onnx")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert graph.parameters == as_int8(graph).parameters == count + beside
    assert sum(s.parameters for s in graph.segments) > graph.parameters  # each call reads them
    assert size - 8000 < 4 * graph.parameters < size
    whole = sub_graph(graph.segments, {"NPUExecutionProvider": 1})
    assert (whole.parameters, whole.parameter_bytes) == (graph.parameters, 4 * graph.parameters)
