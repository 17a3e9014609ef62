"""Channels ranked for a plan: worked out by hand, and on networks with skip connections."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from edgeprune.data import Data
from edgeprune.importance.in_plan import InPlan
from edgeprune.importance.scores import keep_best, score_channels
from edgeprune.pruning.groups import find_groups


def data_of(x: torch.Tensor, classes: int = 1) -> Data:
    targets = torch.arange(len(x)) % classes
    return Data(
        x[:1], None, [(x, targets)], [(x, targets)],
        loss=nn.functional.cross_entropy
        if classes > 1 else lambda output, _: output.flatten(1).sum(1).mean(),
    )  # fmt: skip


@pytest.fixture
def chain() -> tuple[nn.Module, Data]:
    """Three signals of variance 1; of the four sums behind them, 0 is 5 times the first one."""
    first, second, third = (nn.Linear(*ends, bias=False) for ends in ((3, 3), (3, 4), (4, 1)))
    with torch.no_grad():
        first.weight.copy_(torch.eye(3))
        second.weight.copy_(torch.tensor([[5.0, 0, 0], [0, 1.0, 0.2], [0, 1.0, 0], [0.0, 0, 0.1]]))
        third.weight.fill_(1.0)
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    model = nn.Sequential(first, nn.Identity(), second, nn.Identity(), third).eval()
    return model, data_of(x)


def test_what_cut_outputs_would_miss_does_not_count(chain) -> None:
    model, data = chain
    groups = find_groups(model, data.example).groups
    ranked = InPlan(model, data, groups[:1], samples=8)
    assert groups[0].name == "0"
    assert ranked({"0": (2,)}) == {"0": (0,)}  # the second group is whole
    assert ranked({"0": (2,), "2": (0, 3)}) == {"0": (0,)}
    assert ranked({"0": (2,), "2": (1, 2)}) == {"0": (1,)}
    assert ranked({"0": (2,), "2": (3,)}) == {"0": (2,)}
    assert ranked({"0": (0, 1), "2": (3, 0)}) == {"0": (0, 2)}
    assert ranked({"0": (0, 1, 2), "2": (1,)}) == {}  # nothing of it is cut
    assert ranked({"0": (), "2": (1,)}) == {}


def test_groups_are_ranked_from_the_last_to_the_first(chain) -> None:
    """Of the second group 0 alone matters then, and so the first signal."""
    model, data = chain
    with torch.no_grad():
        model[2].weight[1] = torch.tensor([0.0, 1.0, 1.0])  # as much as 0 loses without its signal
    groups = find_groups(model, data.example).groups
    ranked = InPlan(model, data, groups, samples=8)
    assert ranked({"0": (1,), "2": (1,)}) == {"0": (0,), "2": (0,)}


@pytest.mark.parametrize("name", ["plain", "residual", "separable", "flattened", "mlp"])
def test_where_nothing_else_is_cut_the_scores_rank(build, groups_of, name: str) -> None:
    model, inputs = build(name)
    torch.manual_seed(0)
    x = torch.randn(48, *inputs[0].shape[1:])
    data, groups = data_of(x, classes=10), groups_of(name).groups
    scores = score_channels(model, data, groups, "refit_error", samples=48)
    ranked = InPlan(model, data, groups, samples=48)
    for group in groups:
        half = tuple(range(group.width // 2))
        assert ranked({group.name: half}) == {group.name: keep_best(scores[group.name], len(half))}


def test_the_same_plan_is_ranked_alike_again(build, groups_of) -> None:
    model, inputs = build("residual")
    torch.manual_seed(0)
    data = data_of(torch.randn(48, *inputs[0].shape[1:]), classes=10)
    groups = groups_of("residual").groups
    plan = {group.name: tuple(range(group.width // 4)) for group in groups}
    ranked = InPlan(model, data, groups, samples=48)
    found = ranked(plan)
    assert {name: len(channels) for name, channels in found.items()} == {
        group.name: group.width // 4 for group in groups
    }
    ranked({name: (0,) for name in plan})
    assert ranked(plan) == found == InPlan(model, data, groups, samples=48)(plan)


def test_groups_that_cannot_be_read_are_left_as_they_are(build, groups_of) -> None:
    model, inputs = build("grouped")
    torch.manual_seed(0)
    data = data_of(torch.randn(48, *inputs[0].shape[1:]), classes=10)
    groups = groups_of("grouped").groups
    unread = {g.name for g in groups} - set(InPlan(model, data, groups, samples=48)._groups)
    assert unread
    plan = {group.name: tuple(range(group.width // 2)) for group in groups}
    assert set(InPlan(model, data, groups, samples=48)(plan)) == set(plan) - unread
    only = [group for group in groups if group.name in unread]
    assert InPlan(model, data, only, samples=48)(plan) == {}


def test_a_group_that_went_with_its_branch_is_left_out(build, groups_of) -> None:
    model, inputs = build("residual")
    torch.manual_seed(0)
    data = data_of(torch.randn(48, *inputs[0].shape[1:]), classes=10)
    groups = groups_of("residual").groups
    gone = groups[0].model_copy(update={"name": "of a branch that is gone"})
    ranked = InPlan(model, data, (*groups[1:], gone), samples=48)
    found = ranked({gone.name: (), groups[1].name: (0, 1)})
    assert set(found) == {groups[1].name}
