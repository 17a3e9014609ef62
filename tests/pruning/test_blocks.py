"""Removal of residual branches: found in the graph, proved, and replayed."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.allocation.exact import solve
from edgeprune.allocation.problem import LayerTerm, Problem, Resource
from edgeprune.allocation.removal import with_removals
from edgeprune.data import Data
from edgeprune.errors import InternalCheckError
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.importance.sensitivity import block_losses
from edgeprune.pruning.blocks import find_blocks, silence
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.pruning.shrink import rebuild, shrink
from edgeprune.records import GroupList, PlannedGroup, ResidualBlock, WidthPlan


class Inverted(nn.Module):
    """Two inverted residual blocks; only the second has a skip connection; then a bottleneck."""

    def __init__(self, *, shared: bool = False, leak: bool = False) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
                nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24),
                nn.ReLU6(), nn.Conv2d(24, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
            )  # fmt: skip

        self.first, self.second = block(3, 16), block(16, 16)
        self.neck = nn.Sequential(
            nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
            nn.Conv2d(12, 16, 1),
        )  # fmt: skip
        self.head = nn.Linear(16, 10)
        self.shared, self.leak = shared, leak

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        inner = self.second(x)
        x = x + inner
        if self.leak:
            x = x + inner.mean()
        x = x + self.neck(x)
        if self.shared:
            x = x + self.neck(x)
        return self.head(x.mean((2, 3)))


def a_plan(groups: GroupList, widths: dict[str, int], *blocks: ResidualBlock) -> WidthPlan:
    gone = {name for block in blocks for name in block.groups}
    planned = {}
    for group in groups.groups:
        width = 0 if group.name in gone else widths.get(group.name, group.width)
        planned[group.name] = PlannedGroup(
            before=group.width, after=width, kept=tuple(range(width)), criterion="l2"
        )
    return WidthPlan(
        groups=planned, budget=1.0, unit="us", predicted=1.0, predicted_error=0.0, corrected=1.0,
        gap=0.0, loss=0.0, removed=blocks,
    )  # fmt: skip


INPUT = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def test_blocks_of_a_residual_network(build, groups_of) -> None:
    model, inputs = build("residual")
    first, second = find_blocks(model, inputs, groups_of("residual").groups)
    assert first.layers == ("a1", "a1_bn", "a2", "a2_bn")
    assert first.last == "a2_bn"
    assert first.groups == ("a1",)
    assert second.layers == ("b1", "b1_bn", "b2", "b2_bn")


@pytest.mark.parametrize("name", ["plain", "concat", "separable", "sigmoid", "shuffled", "mlp"])
def test_no_blocks_without_skip_connections(build, groups_of, name: str) -> None:
    assert find_blocks(*build(name), groups_of(name).groups) == ()


def test_depthwise_layers_and_several_groups_in_a_branch() -> None:
    model = Inverted().eval()
    groups = find_groups(model, INPUT)
    second, neck = find_blocks(model, INPUT, groups.groups)
    assert (second.last, neck.last) == ("second.7", "neck.4")
    assert second.groups == ("second.3",)  # the depthwise layer numbers its channels
    assert set(neck.groups) == {"neck.0", "neck.2"}
    assert find_blocks(model, INPUT, groups.groups, keep=["neck.2"]) == (second,)


def test_a_branch_that_is_needed_elsewhere_or_runs_twice_stays() -> None:
    leaking = Inverted(leak=True).eval()
    lasts = [b.last for b in find_blocks(leaking, INPUT, find_groups(leaking, INPUT).groups)]
    assert lasts == ["neck.4"]
    twice = Inverted(shared=True).eval()
    lasts = [b.last for b in find_blocks(twice, INPUT, find_groups(twice, INPUT).groups)]
    assert lasts == ["second.7"]


class Recurrent(nn.Module):
    """A branch of a recurrent layer, of which all steps or the last states are read."""

    def __init__(self, kind: type[nn.RNNBase], *, states: bool, **settings: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.steps = kind(8, 12, batch_first=True, **settings)
        self.out, self.states = nn.Linear(self.steps.proj_size or 12, 8), states

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, last = self.steps(x)
        if self.states:
            last = last[0] if isinstance(last, tuple) else last
            y = last[-1][:, None]
        return self.head((x + self.out(y)).mean(1))


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_goes_with_its_branch(tmp_path: Path, kind, states: bool) -> None:
    model, inputs = Recurrent(kind, states=states).eval(), (torch.randn(1, 5, 6),)
    (block,) = find_blocks(model, inputs, find_groups(model, inputs).groups)
    assert (block.last, block.layers, block.groups) == ("out", ("steps", "out"), ("steps",))
    slim = cut(model, inputs, {}, [block])
    silent = copy.deepcopy(model)
    silence(silent, [block])
    torch.testing.assert_close(slim(*inputs), silent(*inputs))
    assert not [name for name, _ in slim.named_parameters() if name.startswith(("steps", "out"))]
    export(slim, inputs, tmp_path / "slim.onnx", opset=20)
    operators = [s.operator for s in read_graph(tmp_path / "slim.onnx").segments]
    assert not {"LSTM", "GRU"} & {*operators}


class Pooled(nn.Module):
    """Three branches; one of the last two has to give a sum its pixels, or the head refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.ins = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=1) for _ in range(3))
        self.outs = nn.ModuleList(nn.Conv2d(8, 16, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.outs[0](self.ins[0](x).relu())
        y = x.mean((2, 3), keepdim=True)
        for number in (1, 2):
            y = y + self.outs[number](self.ins[number](x).relu())
        return self.head(y.flatten(1))


def test_of_branches_that_cannot_all_go_as_many_as_can_are_offered() -> None:
    model, inputs = Pooled().eval(), (torch.randn(1, 3, 8, 8),)
    groups = find_groups(model, inputs).groups
    assert [block.last for block in find_blocks(model, inputs, groups)] == ["outs.0", "outs.1"]


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_removal_equals_the_silent_branch_and_replays(
    build, groups_of, tmp_path: Path, which: tuple[int, ...]
) -> None:
    model, inputs = build("residual")
    groups = groups_of("residual")
    found = find_blocks(model, inputs, groups.groups)
    blocks = tuple(found[k] for k in which)
    plan = a_plan(groups, {"stem": 8}, *blocks)
    slim = shrink(model, inputs, plan, [(torch.randn(4, 3, 8, 8),)])  # proves it
    again = rebuild(model, inputs, plan, slim.state_dict())
    with torch.inference_mode():
        assert torch.equal(slim(*inputs), again(*inputs))
    assert plan.digest != a_plan(groups, {"stem": 8}).digest
    path = tmp_path / "slim.onnx"
    export(slim, inputs, path, opset=20)
    names = {segment.name for segment in read_graph(path).segments}
    assert not names & {name for block in blocks for name in block.layers}
    assert read_graph(path).macs < read_graph_of(model, inputs, tmp_path).macs


def read_graph_of(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path):  # type: ignore[no-untyped-def]
    export(model, inputs, folder / "dense.onnx", opset=20)
    return read_graph(folder / "dense.onnx")


def test_a_plan_that_keeps_channels_of_a_removed_branch_is_refused(build, groups_of) -> None:
    model, inputs = build("residual")
    groups = groups_of("residual")
    block = find_blocks(model, inputs, groups.groups)[0]
    plan = a_plan(groups, {}).model_copy(update={"removed": (block,)})
    with pytest.raises(InternalCheckError, match="its branch is removed"):
        shrink(model, inputs, plan)


def test_the_loss_of_a_removal_is_that_of_the_model_without_it(build, groups_of) -> None:
    model, inputs = build("residual")
    blocks = find_blocks(model, inputs, groups_of("residual").groups)
    batch = [(torch.randn(32, 3, 8, 8), torch.randint(10, (32,)))]
    data = Data(inputs, None, batch, batch)
    losses = block_losses(model, data, blocks, samples=32)
    assert [loss.last for loss in losses] == [block.last for block in blocks]
    assert all(abs(loss.increase) > 1e-4 for loss in losses)
    assert block_losses(model, data, (), samples=32) == ()


def chained() -> Problem:
    """Groups 0 and 3 outside, 1 and 2 inside a branch: layers 0-1, 1-2, 2-0, and 0-3."""
    random = np.random.default_rng(0)
    ends = [(0, 1), (1, 2), (2, 0), (0, 3)]
    layers = [LayerTerm(f"l{a}{b}", a, b, random.uniform(1, 5, (3, 3))) for a, b in ends]
    macs = [replace(term, costs=term.costs.round()) for term in layers]
    row = Resource("macs", "MACs", 11.0, tuple(macs))
    losses = tuple((*sorted(random.uniform(0, 1, 2), reverse=True), 0.0) for _ in range(4))
    return Problem(tuple("abcd"), ((8, 16, 24),) * 4, losses, tuple(layers), 1.0, (row,))


def test_removal_in_the_problem_as_by_brute_force() -> None:
    block = ResidualBlock(last="x", layers=("x",), groups=("b", "c"))
    problem = with_removals(chained(), [block], {"x": 0.6})
    assert problem.widths == ((8, 16, 24), (0, 8, 16, 24), (0, 8, 16, 24), (8, 16, 24))
    assert problem.cost((2, 0, 0, 2)) == pytest.approx(1.0 + chained().layers[3].costs[2, 2])
    assert problem.loss((2, 0, 0, 2)) == 0.6
    every = [
        c
        for c in itertools.product(*(range(len(w)) for w in problem.widths))
        if (c[1] == 0) == (c[2] == 0)
    ]
    assert problem.dense == (2, 3, 3, 2)
    removed = 0
    for budget in np.linspace(2.5, 20, 8):
        allowed = [
            c for c in every if problem.cost(c) <= budget and problem.resources[0].used(c) <= 11.0
        ]
        found = solve(problem, float(budget), gap=0.0)
        assert (found is None) == (not allowed)
        if found is not None:
            assert found.choice in allowed
            assert found.loss == pytest.approx(min(map(problem.loss, allowed)))
            removed += found.choice[1] == 0
    assert removed


def test_a_branch_without_its_loss_is_an_internal_error() -> None:
    block = ResidualBlock(last="x", layers=("x",), groups=("b", "c"))
    with pytest.raises(InternalCheckError, match="x has no loss"):
        with_removals(chained(), [block], {})
    outside = ResidualBlock(last="y", layers=("y",), groups=("b", "z"))
    assert with_removals(chained(), [outside], {}).widths == chained().widths


def test_the_layer_that_names_a_group_may_go_with_its_branch(build, groups_of) -> None:
    """Of the channels that skip connections carry, the last branch's last layer is the name."""
    torch.manual_seed(0)
    model, inputs = Inverted().eval(), (torch.randn(2, 3, 8, 8),)
    groups = find_groups(model, inputs)
    blocks = find_blocks(model, inputs, groups.groups)
    named = [b for b in blocks if any(g.name in b.layers and g.name not in b.groups for g in groups.groups)]  # fmt: skip
    assert named
    gone = {name for block in named for name in block.groups}
    kept = {g.name: () if g.name in gone else tuple(range(g.width - 1)) for g in groups.groups}
    plan = WidthPlan(
        groups={
            g.name: PlannedGroup(
                before=g.width, after=len(kept[g.name]), kept=kept[g.name], criterion="l2"
            )
            for g in groups.groups
        },
        budget=1.0, unit="us", predicted=1.0, predicted_error=0.0, corrected=1.0, gap=0.0,
        loss=0.0, removed=tuple(named),
    )  # fmt: skip
    slim = shrink(model, inputs, plan)
    assert slim.head.in_features == 15
    assert slim.first[6].out_channels == 15
