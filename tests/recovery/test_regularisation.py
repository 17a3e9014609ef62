"""Regularisers by hand, and in training: what is driven down is what can go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgeprune.errors import UsageError
from edgeprune.pruning.groups import find_groups
from edgeprune.recovery.regularisation import KINDS, regularise, require_plain

FIRST = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
SECOND = torch.tensor([[4.0, 0.0, 0.0]])  # channel norms 5, 1, 2


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(FIRST)
        model[2].weight.copy_(SECOND)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


X = (torch.ones(1, 2),)


def test_group_norm_by_hand() -> None:
    model = network()
    regularise(model, X, find_groups(model, X).groups, "group_norm", 0.01).apply()
    # gamma = 16^((5 - I) / 4) for I = 5, 1, 2
    gamma = torch.tensor([1.0, 16.0, 16.0 ** (3 / 4)])
    torch.testing.assert_close(model[0].weight.grad, 0.01 * gamma[:, None] * FIRST)
    torch.testing.assert_close(model[2].weight.grad, 0.01 * gamma * SECOND)


def test_growing_by_hand() -> None:
    model = network()
    found = regularise(model, X, find_groups(model, X).groups, "growing", 0.01)
    found.grow()
    found.grow()
    found.apply()
    # squared norms 25, 1, 4: each grow adds 0.01 * (25 - I) / 24
    reg = 0.01 + 2 * 0.01 * torch.tensor([0.0, 1.0, 21 / 24])
    torch.testing.assert_close(model[0].weight.grad, reg[:, None] * FIRST)


def test_scales_get_the_sign() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([2.0, -0.5]))
    model(torch.randn(4, 1, 3, 3)).sum().backward()
    one = (torch.randn(1, 1, 3, 3),)
    before = model[1].weight.grad.clone()
    regularise(model, one, find_groups(copy.deepcopy(model), one).groups, "bn_scale", 0.1).apply()
    torch.testing.assert_close(model[1].weight.grad - before, torch.tensor([0.1, -0.1]))
    assert model.training


@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_that_does_nothing_fades_in_training(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 1)
    )
    with torch.no_grad():
        model[4].weight[:, 9 * 3 :] = 0.0  # channels 3, 4, 5 are not read
    x = torch.randn(64, 1, 5, 5)
    target = x.mean((1, 2, 3))[:, None]
    groups = find_groups(copy.deepcopy(model), (x[:1],)).groups
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = regularise(model, (x[:1],), groups, kind, 0.02)
    start = model[0].weight[3:].detach().clone()
    frozen = model[4].weight[:, 27:].clone()
    for step in range(60):
        loss = nn.functional.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        found.apply()
        model[4].weight.grad[:, 27:] = 0.0
        if step % 10 == 9:
            found.grow()
        optimizer.step()
    assert torch.equal(model[4].weight[:, 27:], frozen)
    left = (
        model[1].weight[3:].detach().abs() if kind == "bn_scale" else model[0].weight[3:].detach()
    )
    assert float(left.norm()) < 0.97 * float(
        (torch.ones(3) if kind == "bn_scale" else start).norm()
    )


def test_bad_requests() -> None:
    with pytest.raises(UsageError, match=r"no regularisation 'lasso' \(known: group_norm"):
        regularise(network(), X, (), "lasso")
    with pytest.raises(UsageError, match="no BatchNorm"):
        regularise(network(), X, (), "bn_scale")


@pytest.mark.parametrize("kind", KINDS)
def test_grouped_convolutions_are_refused_by_name(kind: str, build, groups_of) -> None:
    model, inputs = build("grouped")
    groups = groups_of("grouped").groups
    if kind == "bn_scale":
        require_plain(model, groups, kind)
        return
    with pytest.raises(UsageError, match=f"{kind}: 2 is a grouped convolution"):
        regularise(model, inputs, groups, kind)
    others = [group for group in groups if group.divisor == 1]
    model, inputs = build("separable")  # a depthwise convolution is no obstacle
    require_plain(model, groups_of("separable").groups, kind)
    assert others == [g for g in groups if "2" not in (*g.outputs, *g.inputs)]
