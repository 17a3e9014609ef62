"""Linear layers behind concatenations are not taken for layers behind flattened channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeprune.allocation.problem import build_problem, flat_curves
from edgeprune.allocation.resources import Model, resource_rows
from edgeprune.cost.layers import priceable
from edgeprune.cost.table import build_table
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import find_groups
from edgeprune.sections import BudgetSection
from tests.cost.cut_models import rows_hold


class Two(nn.Module):
    """Two inputs, each with a layer of its own, side by side."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.mix = nn.Linear(20, a), nn.Linear(30, b), nn.Linear(a + b, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sides = torch.cat([self.a(x).relu(), self.b(y).relu()], 1)
        return self.head(self.mix(sides).relu())


class Raw(nn.Module):
    """Features beside as many that no layer made."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.head = nn.Linear(20, 32), nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.mix(torch.cat([self.a(x).relu(), y], 1)).relu())


class Pools(nn.Module):
    """The same channels twice: every column belongs to the one group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.head = nn.Conv2d(3, 32, 3), nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.head(self.mix(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)).relu())


ROWS = (1, 20), (1, 30)
CASES = {
    "alike": (lambda: Two(32, 32), ROWS, ("a", "b")),
    "narrow first": (lambda: Two(16, 32), ROWS, ("a", "b")),
    "wide first": (lambda: Two(32, 16), ROWS, ("a", "b")),
    "raw": (Raw, ((1, 20), (1, 32)), ("a",)),
    "pools": (Pools, ((1, 3, 8, 8),), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_priced_is_priced_right(case: str, simulated, tmp_path: Path) -> None:
    """Groups beside others are left alone, which is said; the rest is as in the cut model."""
    kind, shapes, alone = CASES[case]
    torch.manual_seed(0)
    model, inputs = kind().eval(), tuple(torch.randn(shape) for shape in shapes)
    groups, path = find_groups(model, inputs).groups, tmp_path / "dense.onnx"
    export(model, inputs, path, opset=20)
    graph, device = read_graph(path), simulated(overhead_us=0.0, macs_per_us=100.0)
    profile = profile_model(device, path, name=case, processes=1, rounds=2)
    said: list[str] = []
    table = build_table(device, graph, groups, profile, processes=1, warn=said.append)
    assert set(table.widths) == {group.name for group in groups} - {*alone}
    assert len(said) == bool(alone)
    if alone:
        left = f"{', '.join(alone)} {'are' if len(alone) > 1 else 'is'} left alone"
        assert said[0].startswith("layer mix (Gemm, ")
        assert "cannot be priced at other widths, since its input " in said[0]
        assert said[0].endswith(f": {left}")
        assert [group.name for group in table.skipped] == [*alone]
        assert all(said[0].startswith(group.reason) for group in table.skipped)
    rows = resource_rows(
        BudgetSection(macs="100%", parameters="100%", flash_kb=1e9),
        table,
        Model(model, graph, groups, path.stat().st_size),
    )
    problem = build_problem(table, flat_curves(table), rows)
    checked = list(rows_hold(problem, table, model, inputs, device, tmp_path, error=0.01))
    assert len(checked) == 2 ** len(table.widths)


def test_a_side_that_is_kept_does_not_make_the_other_flat(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Two(32, 32).eval(), tuple(torch.randn(shape) for shape in ROWS)
    export(model, inputs, tmp_path / "m.onnx", opset=20)
    graph, groups = read_graph(tmp_path / "m.onnx"), find_groups(model, inputs, ("b",)).groups
    said: list[str] = []
    found = priceable(graph, groups, said.append)
    assert [group.name for group in found.groups] == ["mix"]
    assert said[0].endswith("a is left alone")
    with pytest.raises(UnsupportedModelError, match="without a no group of channels can be cut"):
        priceable(graph, [group for group in groups if group.name == "a"], said.append)


class Branches(nn.Module):
    """Layers that read one group and write parts of another, which a concatenation joins."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 24, 1), nn.Conv2d(48, 48, 1)
        self.one, self.three = nn.Conv2d(24, 16, 1), nn.Conv2d(24, 32, 3, padding=1)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.cat([self.one(x), self.three(x)], 1).relu()
        return self.head((x + self.mix(x)).mean((2, 3)))


def test_only_the_group_that_does_not_fit_is_left_alone(simulated, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs, path = Branches().eval(), (torch.randn(1, 3, 8, 8),), tmp_path / "dense.onnx"
    groups = find_groups(model, inputs).groups
    assert {group.name: group.width for group in groups} == {"stem": 24, "mix": 48}
    export(model, inputs, path, opset=20)
    graph, device = read_graph(path), simulated(overhead_us=0.0, macs_per_us=100.0)
    profile = profile_model(device, path, name="branches", processes=1, rounds=2)
    said: list[str] = []
    table = build_table(device, graph, groups, profile, processes=1, warn=said.append)
    assert [*table.widths] == ["stem"]
    (skipped,) = table.skipped
    assert (skipped.name, skipped.width) == ("mix", 48)
    assert "since its output is one part (16) of a concatenation of 48 channels" in skipped.reason
    assert said == [f"{skipped.reason}: mix is left alone"]
    rows = resource_rows(
        BudgetSection(macs="100%", parameters="100%", flash_kb=1e9),
        table,
        Model(model, graph, groups, path.stat().st_size),
    )
    problem = build_problem(table, flat_curves(table), rows)
    assert len(list(rows_hold(problem, table, model, inputs, device, tmp_path, error=0.01))) == 2


def test_groups_know_how_many_entries_each_layer_reads(groups_of) -> None:
    first, second = groups_of("flattened").groups
    assert first.entries == {"4": 16 * 4 * 4}
    assert (first.entries_in("4"), second.entries_in("6")) == (256, 24)
    model, inputs = Pools().eval(), (torch.randn(1, 3, 8, 8),)
    assert find_groups(model, inputs).groups[0].entries_in("mix") == 64
