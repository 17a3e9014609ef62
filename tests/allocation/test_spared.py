"""What goes with a removed branch, against models that were exported without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.allocation.problem import Problem, build_problem, flat_curves
from edgeprune.allocation.removal import with_removals
from edgeprune.allocation.resources import Model, activations, resource_rows
from edgeprune.allocation.spared import alike, layers_behind, layers_gone, spared_layers
from edgeprune.cost.prediction import Predictor
from edgeprune.cost.table import build_table
from edgeprune.devices.protocol import Device
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import Graph, read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.blocks import find_blocks
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.records import CostTable, ResidualBlock
from edgeprune.sections import BudgetSection
from tests.allocation.branched_models import Attentive


class Ended(nn.Module):
    """A branch that ends in a LayerNorm, so that its addition runs alone; one more behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 32), nn.Linear(32, 10)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.end, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        nn.init.normal_(self.after.weight)  # a file holds equal weights once
        nn.init.normal_(self.after.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        x = self.after(x + self.end(self.down(self.up(x).relu())))
        return self.head(x.mean(1))


class Followed(nn.Module):
    """Behind a branch whose addition is fused comes one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 32), nn.Linear(32, 10)
        self.up, self.down, self.norm = nn.Linear(32, 64), nn.Linear(64, 32), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        x = x + self.down(self.up(x).relu())
        x = x + self.norm(x)
        return self.head(x.mean(1))


class RootMeanSquare(nn.Module):
    """A norm that the export spells out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.weight


class SpeltOut(nn.Module):
    """A branch that ends in a layer of many nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 32), nn.Linear(32, 10)
        self.up, self.down, self.end = nn.Linear(32, 64), nn.Linear(64, 32), RootMeanSquare()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        return self.head((x + self.end(self.down(self.up(x).relu()))).mean(1))


class Gated(nn.Module):
    """A branch of convolutions with squeeze and excitation in it, BatchNorm at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.a, self.b = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.deep(self.a(x).relu()).relu()
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head((x + self.norm(self.b(y))).mean((2, 3)))


class Recurrent(nn.Module):
    """A branch that begins with a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 10)
        self.steps = nn.LSTM(16, 20, batch_first=True)
        self.up, self.down = nn.Linear(20, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        x = x + self.down(self.up(self.steps(x)[0]).relu())
        return self.head(x.mean(1))


TOKENS, IMAGE = (1, 16, 12), (1, 3, 8, 8)


@dataclass(frozen=True)
class Posed:
    """A model, and the problem in which some of its branches may go."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    blocks: Sequence[ResidualBlock]
    graph: Graph
    table: CostTable
    problem: Problem

    def without(self, widths: Mapping[str, int], path: Path) -> tuple[list[int], Graph]:
        """Return the choice of `widths` without the branches, and what is exported of that."""
        own = {group for block in self.blocks for group in block.groups}
        options = zip(self.problem.names, self.problem.widths, strict=True)
        choice = [
            0 if n in own else offered.index(widths.get(n, offered[-1])) for n, offered in options
        ]
        kept = {name: range(width) for name, width in widths.items()}
        export(cut(self.model, self.inputs, kept, self.blocks), self.inputs, path, opset=20)
        return choice, read_graph(path)


def pose(
    kind: type[nn.Module], shape: tuple[int, ...], gone: list[str], device: Device, path: Path
) -> Posed:
    torch.manual_seed(0)
    model, inputs = kind().eval(), (torch.randn(shape),)
    export(model, inputs, path, opset=20)
    groups, graph = find_groups(model, inputs).groups, read_graph(path)
    table = build_table(device, graph, groups, profile_model(device, path, name="m"))
    subject = Model(model, graph, groups, path.stat().st_size)
    budget = BudgetSection(macs="100%", parameters="100%", flash_kb=1e9)
    rows = (*resource_rows(budget, table, subject), *activations(table, graph, 1.0))
    blocks = [block for block in find_blocks(model, inputs, groups) if block.last in gone]
    assert [block.last for block in blocks] == gone
    problem = build_problem(table, flat_curves(table), rows, spared_layers(graph))
    problem = with_removals(problem, blocks, dict.fromkeys(gone, 0.0))
    return Posed(model, inputs, blocks, graph, table, problem)


@pytest.mark.parametrize(
    ("kind", "shape", "gone"),
    [
        (Attentive, TOKENS, ["join"]),
        (Attentive, TOKENS, ["down"]),
        (Attentive, TOKENS, ["join", "down"]),
        (Ended, TOKENS, ["end"]),
        (Followed, TOKENS, ["down"]),
        (SpeltOut, TOKENS, ["end"]),
        (Recurrent, TOKENS, ["down"]),
        (Gated, IMAGE, ["norm"]),
    ],
)
def test_a_problem_without_branches_is_the_model_without_them(
    kind: type[nn.Module], shape: tuple[int, ...], gone: list[str], simulated, tmp_path: Path
) -> None:
    posed = pose(kind, shape, gone, simulated(), tmp_path / "model.onnx")
    problem, graph = posed.problem, posed.graph
    assert problem.cost(problem.dense) == pytest.approx(posed.table.dense_cost)
    choice, slim = posed.without({}, tmp_path / "slim.onnx")
    used = problem.used(choice)
    assert used["macs"] == slim.macs
    assert used["parameters"] == slim.parameters
    assert used["ram"] == slim.peak_activation_bytes()
    weights = 4 * (graph.parameters - slim.parameters)
    assert problem.used(problem.dense)["flash"] - used["flash"] == pytest.approx(weights)
    found = profile_model(simulated(), tmp_path / "slim.onnx", name="slim").total
    assert problem.cost(choice) == pytest.approx(found, rel=1e-6)
    absent = layers_gone(graph, posed.blocks)
    dense = {group: widths[-1] for group, widths in posed.table.widths.items()}
    assert Predictor(posed.table)(dense, absent).cost == pytest.approx(found, rel=1e-6)


class Residual(nn.Module):
    """Two blocks as those of ResNet: what is left of one is fused to the layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 10)
        self.a, self.b = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        x = (x + self.d(self.c(x).relu())).relu()
        return self.head(x.mean((2, 3)))


class Activated(Residual):
    """Behind the additions of branches come an activation, and a factor with one more addition."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.stem(x).relu(), 2)
        x = (x + self.b(self.a(x).relu())).relu()
        x = (x + self.d(self.c(x).relu())) * 0.5 + x
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("kind", [Activated, Residual])
@pytest.mark.parametrize("gone", [["b"], ["d"], ["b", "d"]])
def test_memory_of_what_is_left_behind_a_removed_addition_is_there(
    kind: type[nn.Module], gone: list[str], simulated, tmp_path: Path
) -> None:
    posed = pose(kind, IMAGE, gone, simulated(), tmp_path / "model.onnx")
    problem = posed.problem
    assert problem.used(problem.dense)["ram"] == posed.graph.peak_activation_bytes()
    own = {group for block in posed.blocks for group in block.groups}
    narrow = {name: w[0] for name, w in posed.table.widths.items() if name not in own}
    for widths in ({}, narrow):
        choice, slim = posed.without(widths, tmp_path / "slim.onnx")
        assert problem.used(choice)["ram"] == slim.peak_activation_bytes()


def test_layers_are_on_every_way_from_those_before_them(tmp_path: Path) -> None:
    export(Attentive().eval(), (torch.randn(TOKENS),), tmp_path / "model.onnx", opset=20)
    graph = read_graph(tmp_path / "model.onnx")
    behind = layers_behind(graph)
    assert "join" in behind["before"]
    assert not {"q", "k", "v"} & {*behind["before"]}
    assert "head" in behind["join"]
    assert not {"join", "down"} & {*behind["embed"]}  # its output goes around both branches


class Parallel(nn.Module):
    """Two branches read one LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(12, 32), nn.LayerNorm(32), nn.Linear(32, 10)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        y = self.norm(x)
        x = x + self.down(self.up(y).relu()) + self.second(self.first(y).relu())
        return self.head(x.mean(1))


@pytest.mark.parametrize("gone", [["down"], ["second"], ["down", "second"]])
def test_what_two_branches_share_goes_with_both(gone: list[str], tmp_path: Path) -> None:
    model, inputs, files = Parallel().eval(), (torch.randn(TOKENS),), tmp_path / "model.onnx"
    layers = {"down": ("up", "down"), "second": ("first", "second")}
    blocks = [ResidualBlock(last=n, layers=layers[n], groups=layers[n][:1]) for n in gone]
    export(model, inputs, files, opset=20)
    dense = read_graph(files)
    export(cut(model, inputs, {}, blocks), inputs, files, opset=20)
    slim, absent = read_graph(files), layers_gone(dense, blocks)
    assert ("norm" in absent) is (len(gone) == 2)
    assert [s.name for s in dense.segments if s.name not in absent] == [
        segment.name for segment in slim.segments
    ]
    assert alike(dense, slim, absent)
    assert not alike(dense, slim, ())
