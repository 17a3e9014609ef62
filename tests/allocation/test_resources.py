"""Rows for MACs, parameters, file size and activations against models that are really cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.allocation.closed_loop import Measured, close_the_loop
from edgeprune.allocation.exact import solve
from edgeprune.allocation.problem import LayerTerm, Problem, Resource, build_problem, flat_curves
from edgeprune.allocation.reachable import require_reachable, unreachable
from edgeprune.allocation.removal import with_removals
from edgeprune.allocation.resources import Model, activations, resource_rows
from edgeprune.cost.table import build_table
from edgeprune.errors import BudgetError
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.blocks import find_blocks
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.records import CostTable, PlannedGroup, WidthPlan
from edgeprune.sections import BudgetSection
from tests.allocation.branched_models import Branched, Normalised, Skipped


@dataclass(frozen=True)
class Priced:
    model: nn.Module
    inputs: tuple[Tensor, ...]
    table: CostTable
    subject: Model
    file: Path


@pytest.fixture(params=["plain", "residual", "separable", "flattened"])
def priced(request, build, exported, groups_of, simulated) -> Priced:
    name = request.param
    model, inputs = build(name)
    path, groups = exported(name), groups_of(name).groups
    device = simulated()
    graph = read_graph(path)
    table = build_table(device, graph, groups, profile_model(device, path, name=name))
    return Priced(model, inputs, table, Model(model, graph, groups, path.stat().st_size), path)


def choices(table: CostTable) -> list[tuple[int, ...]]:
    random = np.random.default_rng(0)
    some = [tuple(int(random.integers(len(w))) for w in table.widths.values()) for _ in range(3)]
    return [(0,) * len(table.widths), *some, tuple(len(w) - 1 for w in table.widths.values())]


def test_rows_say_what_the_cut_model_has(priced: Priced, tmp_path: Path) -> None:
    budget = BudgetSection(macs="100%", parameters="100%", flash_kb=1e9)
    rows = resource_rows(budget, priced.table, priced.subject)
    problem = build_problem(priced.table, flat_curves(priced.table), rows)
    alive = activations(priced.table, priced.subject.graph, 1.0)
    for choice in choices(priced.table):
        widths = problem.widths_of(choice)
        slim = cut(priced.model, priced.inputs, {name: range(w) for name, w in widths.items()})
        path = tmp_path / "slim.onnx"
        export(slim, priced.inputs, path, opset=20)
        graph, used = read_graph(path), problem.used(choice)
        assert used["macs"] == pytest.approx(graph.macs)
        assert used["parameters"] == pytest.approx(sum(p.numel() for p in slim.parameters()))
        assert used["flash"] == pytest.approx(path.stat().st_size, abs=100)
        assert max(r.used(choice) for r in alive) == pytest.approx(graph.peak_activation_bytes())


def test_rows_that_cannot_bind_are_left_out(priced: Priced) -> None:
    peak = priced.subject.graph.peak_activation_bytes()
    assert activations(priced.table, priced.subject.graph, peak) == []
    assert activations(priced.table, priced.subject.graph, peak - 1)


IMAGE, TOKENS, BRANCH = 4 * 16 * 8 * 8, 4 * 16 * 16, 4 * 16 * 32  # bytes of the tensors


@pytest.mark.parametrize(
    ("model", "inputs", "whole", "removed"),
    [
        # x, a and y while b runs; without it y is x, which stays while c runs and gives z
        (Skipped(), torch.randn(1, 3, 8, 8), IMAGE + IMAGE // 2 + IMAGE, 2 * IMAGE),
        # x, what is normalised, and the branch; without it the input and x
        (Normalised(first=True), torch.randn(1, 16, 12), 2 * TOKENS + BRANCH, 4 * 16 * 12 + TOKENS),
        # x, the branch, and what it gives; without it the input and x
        (Normalised(first=False), torch.randn(1, 16, 12), 2 * TOKENS + BRANCH, 4 * 16 * 12 + TOKENS),
    ],
    ids=["added again", "norm first", "norm last"],
)  # fmt: skip
def test_what_a_removed_branch_skips_counts_once(
    model: nn.Module, inputs: Tensor, whole: int, removed: int, simulated, tmp_path: Path
) -> None:
    example, path = (inputs,), tmp_path / "model.onnx"
    groups = find_groups(model.eval(), example).groups
    (block,) = find_blocks(model, example, groups)
    export(model, example, path, opset=20)
    graph, device = read_graph(path), simulated()
    table = build_table(device, graph, groups, profile_model(device, path, name="m"))
    rows = tuple(activations(table, graph, 1.0))
    plain = build_problem(table, flat_curves(table), rows)
    problem = with_removals(plain, (block,), {block.last: 0.0})
    choice = list(problem.dense)
    assert problem.used(choice)["ram"] == whole == graph.peak_activation_bytes()
    for group in problem.tied[0]:
        choice[group] = 0
    assert problem.used(choice)["ram"] == removed
    export(cut(model, example, {}, (block,)), example, path, opset=20)
    assert read_graph(path).peak_activation_bytes() == removed
    # without the removal rows say what they said, and the solver takes them all
    assert with_removals(plain, (), {}).used(plain.dense)["ram"] == whole
    solved = solve(problem, float("inf"))
    assert solved is None  # no width fits into 1 byte
    roomy = [replace(row, limit=float(removed)) for row in problem.resources]
    solved = solve(replace(problem, resources=tuple(roomy)), float("inf"))
    assert solved is not None
    assert solved.choice[problem.tied[0][0]] == 0


@pytest.mark.parametrize("kept", [(), ("stem", "b")])
def test_parameters_at_the_end_of_a_removed_branch_go_with_it(
    kept: tuple[str, ...], simulated, tmp_path: Path
) -> None:
    model, inputs = Branched().eval(), (torch.randn(1, 3, 8, 8),)
    export(model, inputs, tmp_path / "dense.onnx", opset=20)
    found = find_groups(model, inputs, keep=kept).groups
    graph, device = read_graph(tmp_path / "dense.onnx"), simulated()
    dense = profile_model(device, tmp_path / "dense.onnx", name="branched")
    table = build_table(device, graph, found, dense)
    subject = Model(model, graph, found, (tmp_path / "dense.onnx").stat().st_size)
    rows = resource_rows(BudgetSection(parameters="100%"), table, subject)
    blocks = find_blocks(model, inputs, found)
    problem = build_problem(table, flat_curves(table), rows)
    problem = with_removals(problem, blocks, dict.fromkeys((b.last for b in blocks), 0.0))
    for gone in (False, True):
        whole = {name: offered[-1] for name, offered in table.widths.items()}
        widths = whole | ({"a": 0} if gone else {})
        options = zip(problem.names, problem.widths, strict=True)
        choice = tuple(offered.index(widths[name]) for name, offered in options)
        slim = cut(model, inputs, {}, blocks if gone else ())
        assert problem.used(choice)["parameters"] == sum(p.numel() for p in slim.parameters())


def two_groups(*resources: Resource) -> Problem:
    costs = np.array([[2.0, 4.0], [4.0, 8.0]])
    layers = (LayerTerm("a", None, 0, np.array([[1.0, 2.0]])), LayerTerm("b", 0, 1, costs))
    return Problem(("x", "y"), ((8, 16),) * 2, ((0.5, 0.0), (0.3, 0.0)), layers, 0.0, resources)


def a_row(limit: float, *, name: str = "macs", of: int = 0) -> Resource:
    term = LayerTerm("t", None, of, np.array([[10.0, 20.0]]))
    return Resource(name, "MACs", limit, (term,), 1.0)


def test_limits_out_of_reach_are_named() -> None:
    with pytest.raises(BudgetError, match=r"smallest reachable cost is 3 µs") as caught:
        require_reachable(two_groups(), 2.5, "us")
    assert caught.value.exit_code == 1
    assert "30.0 % of dense" in caught.value.what  # of 10 us
    with pytest.raises(BudgetError, match=r"15\.0 % of dense") as caught:
        require_reachable(two_groups(), 2.5, "us", dense_cost=20.0)  # before it was prepared
    assert caught.value.hint.startswith("ask for at least 16%")
    with pytest.raises(BudgetError, match=r"macs of 10 MACs cannot be reached.* is 11 MACs"):
        require_reachable(two_groups(a_row(10.0)), 9.0, "us")
    require_reachable(two_groups(a_row(11.0)), 9.0, "us")


def test_budgets_a_little_below_the_smallest_prediction_are_for_the_loop_to_refuse() -> None:
    require_reachable(two_groups(), 2.56, "us")
    require_reachable(two_groups(a_row(11.0)), 2.56, "us")
    with pytest.raises(BudgetError, match="predicted"):
        require_reachable(two_groups(), 2.54, "us")


def test_limits_that_contradict_each_other_are_named() -> None:
    rising = Resource("flash", "bytes", 1.5, (LayerTerm("t", None, 0, np.array([[2.0, 1.0]])),))
    with pytest.raises(BudgetError, match="contradict each other: each of macs of 11 MACs, flash"):
        require_reachable(two_groups(a_row(11.0), rising), 10.0, "us")
    with pytest.raises(BudgetError, match="within flash of 2 bytes the smallest cost is 6 µs"):
        require_reachable(two_groups(rising), 5.0, "us")


def loop(problem: Problem, budget: float) -> WidthPlan:
    def kept(widths: Mapping[str, int]) -> dict[str, PlannedGroup]:
        return {
            n: PlannedGroup(before=16, after=w, kept=tuple(range(w)), criterion="l2")
            for n, w in widths.items()
        }

    def measure(groups: dict[str, PlannedGroup]) -> Measured:
        choice = [problem.widths[0].index(group.after) for group in groups.values()]
        cost = problem.cost(choice)
        return Measured(cost, cost, cost)

    return close_the_loop(problem, budget, kept=kept, measure=measure, unit="us", dense_cost=10.0)


def test_a_resource_in_full_use_ends_the_loop_and_is_named() -> None:
    plan = loop(two_groups(a_row(11.0, of=1)), 10.0)
    assert {name: g.after for name, g in plan.groups.items()} == {"x": 16, "y": 8}
    assert plan.held_by == ("macs",)
    assert len(plan.rounds) == 1
    (use,) = plan.resources
    assert (use.name, use.unit, use.limit, use.used, use.dense) == (
        "macs",
        "MACs",
        11.0,
        11.0,
        21.0,
    )


def test_widths_too_coarse_for_the_budget_are_named() -> None:
    plan = loop(two_groups(), 9.0)
    assert plan.corrected == 6.0
    assert plan.held_by == ("the offered widths",)


def test_no_budget_above_the_dense_cost_is_advised() -> None:
    assert "at least 51%" in str(unreachable(50.0, 30.0, "us", 100.0, "predicted").hint)
    near = unreachable(26.3149, 26.3141, "us", 100.0, "found").what
    assert "budget of 26.314 µs" in near
    assert "cost is 26.315 µs" in near
    hint = str(unreachable(100.0, 30.0, "us", 100.0, "predicted").hint)
    assert "%" not in hint
    assert hint == "next to nothing of the model can be cut"


def test_a_budget_that_is_the_smallest_cost_is_reached_whatever_the_rounding() -> None:
    require_reachable(two_groups(), 3.0 * (1 - 1e-15), "us")
    fixed = Resource("flash", "bytes", 1.5, (LayerTerm("t", None, 0, np.array([[2.0, 1.0]])),))
    require_reachable(two_groups(fixed), 6.0 * (1 - 1e-15), "us")
    with pytest.raises(BudgetError, match="found"):
        loop(two_groups(), 3.0 * (1 - 1e-6))
    assert loop(two_groups(), 3.0 * (1 - 1e-15)).corrected == 3.0
