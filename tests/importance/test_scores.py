"""Channel scores against cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import DataError, UsageError
from edgeprune.importance.registry import CRITERIA
from edgeprune.importance.scores import keep_best, score_channels
from edgeprune.pruning.groups import find_groups


class Two(nn.Module):
    """first: 2 -> 3, second: 3 -> 2; no biases, no activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 1.0]]))
            self.second.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, -1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def data(x: Tensor, y: Tensor) -> Data:
    return Data(
        x[:1], None, [(x, y)], [(x, y)], loss=lambda out, target: out.sum(), metric=lambda o, t: 0.0
    )


X, Y = torch.tensor([[1.0, 2.0]]), torch.tensor([0])


def scores(criterion: str) -> Tensor:
    model = Two().eval()
    found = find_groups(model, (X,))
    assert [group.name for group in found.groups] == ["first"]
    return score_channels(model, data(X, Y), found.groups, criterion, samples=1)["first"]


def test_l1_and_l2_sum_over_producer_and_consumer() -> None:
    # channel k: row k of first and column k of second
    l1 = torch.tensor([3.0 + 1.0, 3.5 + 4.0, 1.0 + 3.0])
    l2 = torch.tensor([5.0 + 1.0, 9.25 + 16.0, 1.0 + 5.0])
    assert torch.allclose(scores("l1"), l1)
    assert torch.allclose(scores("l2"), l2)


def test_taylor_is_weight_times_gradient() -> None:
    # loss = sum of outputs: dL/dhidden = column sums of second = (1, 4, 1); hidden = first @ x = (5, -2, 2)
    # first: sum_i w_ki * g_k * x_i = hidden_k * column_k; second: sum_o w_ok * hidden_k, the same
    expected = 2 * torch.tensor([5.0 * 1.0, -2.0 * 4.0, 2.0 * 1.0]).abs()
    assert torch.allclose(scores("taylor"), expected)


def test_model_and_gradients_are_left_alone() -> None:
    model = Two().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    score_channels(model, data(X, Y), find_groups(model, (X,)).groups, "taylor", samples=1)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_group_gets_one_finite_score_a_channel(criterion, build, groups_of) -> None:  # type: ignore[no-untyped-def]
    model, inputs = build("residual")
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sample = Data(inputs[0], None, [(x, torch.arange(6))], [(x, torch.arange(6))])
    groups = groups_of("residual").groups
    found = score_channels(model, sample, groups, criterion, samples=6)
    assert {name: len(score) for name, score in found.items()} == {g.name: g.width for g in groups}
    assert all(bool(torch.isfinite(score).all()) for score in found.values())
    if criterion not in ("grasp", "hessian"):  # second derivatives have a sign
        assert all(float(score.min()) >= 0 for score in found.values())


def test_no_calibration_batches_is_an_error() -> None:
    model = Two().eval()
    empty = Data(X, None, [], [(X, Y)])
    with pytest.raises(DataError, match="calibration"):
        score_channels(model, empty, find_groups(model, (X,)).groups, "taylor", samples=1)


def test_best_channels_are_kept_and_ties_go_to_the_lower_index() -> None:
    assert keep_best(torch.tensor([0.1, 5.0, 2.0, 5.0, 0.2]), 3) == (1, 2, 3)
    assert keep_best(torch.tensor([1.0, 1.0, 1.0]), 2) == (0, 1)


def test_scores_that_overflow_are_no_fault_of_the_criterion() -> None:
    given = replace(data(X, Y), loss=lambda out, target: 1e30 * out.sum())
    groups = find_groups(Two(), (X,)).groups
    with pytest.raises(UsageError, match=r"fisher cannot score group first.*\n  scale the loss"):
        score_channels(Two().eval(), given, groups, "fisher", samples=1)
