"""Criterion output_error: worked out by hand, and against its definition on a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.importance.output_error import removal_order
from edgeprune.importance.scores import score_channels
from edgeprune.pruning.groups import find_groups


def scored(model: nn.Module, x: Tensor, group: str, loss) -> list[float]:
    batches = [(x, torch.zeros(len(x), dtype=torch.long))]
    data = Data(x[:1], None, batches, batches, loss=loss)
    groups = find_groups(model, (x[:1],)).groups
    return score_channels(model, data, groups, "output_error", samples=len(x))[group].tolist()


def test_linear_layers_by_hand() -> None:
    """Hidden values (5, -2, 2) and (2, 0.5, 1): half their difference is d = (1.5, -1.25, 0.5).

    The loss is the mean of summed outputs, so each sample's gradient is 1 and K is half of
    W2^T W2 times d d^T: 1.125, 12.5 and 0.625 on the diagonal, K02 = 0.75, K12 = 1.25, K01 = 0.
    Channel 2 goes first, then 0 with 1.125 + 2 * 0.75, then 1 with 12.5 + 2 * 1.25.
    """
    first, second = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 1.0]]))
        second.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, -1.0]]))
    model = nn.Sequential(first, nn.Identity(), second).eval()
    x = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    found = scored(model, x, "0", lambda output, _: output.sum(1).mean())
    assert found == pytest.approx([2.625, 15.0, 0.625])


def test_a_convolution_against_the_definition() -> None:
    """E of a set is the weighted variance of what the consumer's outputs would lose with it."""
    torch.manual_seed(1)
    consumer = nn.Conv2d(4, 3, 3, stride=2, padding=1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), consumer, nn.Flatten()).eval()
    x, weights = torch.randn(20, 2, 7, 7), torch.randn(27)

    def loss(output: Tensor, _: Tensor) -> Tensor:
        return (output.square() * weights).sum(1).mean()

    hidden = model[:2](x).detach()
    output = model(x).detach()
    gradient = (2 * output * weights).reshape(20, 3, -1)
    weight = gradient.square().sum(2).mean(0) / 2

    def error(removed: list[int]) -> float:
        part = torch.zeros_like(hidden)
        part[:, removed] = hidden[:, removed]
        lost = functional.conv2d(part, consumer.weight, None, 2, 1).detach()
        variance = lost.transpose(0, 1).flatten(1).var(1, correction=0)
        return float((weight * variance).sum())

    wanted, removed = [0.0] * 4, list[int]()
    for _ in range(4):
        rises = {k: error([*removed, k]) - error(removed) for k in range(4) if k not in removed}
        best = min(rises, key=lambda k: rises[k])
        wanted[best] = rises[best]
        removed.append(best)
    assert scored(model, x, "0", loss) == pytest.approx(wanted, rel=1e-3)


def test_two_channels_that_say_the_same_are_not_both_removed_first() -> None:
    """Alone each of 0 and 1 is the least, 1.0 against 1.5; together they lose 4."""
    coupling = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.5]]).double()
    scores = removal_order(coupling)
    assert scores.argsort().tolist() == [0, 2, 1]
    assert scores.tolist() == [1.0, 3.0, 1.5]


def test_channels_that_cancel_keep_their_order() -> None:
    """The second removal undoes the first: its rise of -1 must not rank it before the first."""
    coupling = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    first, second = removal_order(coupling).tolist()
    assert (first, second > first) == (1.0, True)


def test_a_group_without_a_consumer_that_can_be_read_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LSTM(6, 5, batch_first=True))

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lstm = model[0], model[2]
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(torch.relu(self.first(x)))[0][:, -1])

    x = torch.randn(8, 3, 4)
    with pytest.raises(UsageError, match=r"output_error cannot score group first.*lstm"):
        scored(Last().eval(), x, "first", lambda output, _: output.sum(1).mean())
