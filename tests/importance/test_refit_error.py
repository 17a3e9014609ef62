"""Criterion refit_error: worked out by hand, and against least squares on a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.importance.consumer_sums import ConsumerSums
from edgeprune.importance.refit_error import Consumer, refit_order
from edgeprune.importance.scores import score_channels
from edgeprune.pruning.groups import find_groups
from edgeprune.recovery.reconstruction import RIDGE


def scored(model: nn.Module, x: Tensor, group: str, criterion: str = "refit_error") -> Tensor:
    batches = [(x, torch.zeros(len(x), dtype=torch.long))]
    data = Data(
        x[:1], None, batches, batches, loss=lambda output, _: output.flatten(1).sum(1).mean()
    )
    groups = find_groups(model, (x[:1],)).groups
    return score_channels(model, data, groups, criterion, samples=len(x))[group]


def observed(layer: nn.Linear, inputs: Tensor) -> ConsumerSums:
    """Sums over `inputs`, with a derivative of 1 for every output."""
    sums = ConsumerSums(layer, samples=len(inputs))
    sums.inputs(inputs, len(inputs), torch.Generator())
    sums.gradients(torch.ones(len(inputs), layer.out_features))
    return sums


def each_alone(width: int) -> Tensor:
    return torch.arange(width)[:, None]


def test_what_others_can_say_goes_first() -> None:
    """Channel 1 is twice channel 0, so either costs nothing, though output_error finds both large.

    Channel 2 varies by itself, by 1 to both sides, with weight 0.5 into one output whose derivative
    is 1: without it E rises by 1/2 * 0.5^2 * 1 = 0.125. With 0 gone, 1 says all: 1/2 * (1 + 2 * 2)^2.
    """
    first, second = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
        second.weight.copy_(torch.tensor([[1.0, 2.0, 0.5]]))
    model = nn.Sequential(first, nn.Identity(), second).eval()
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    found = scored(model, x, "0")
    assert found.argsort().tolist()[1:] == [2, 1]
    assert found.tolist() == pytest.approx([0.0, 12.5, 0.125], abs=0.02)
    assert scored(model, x, "0", "output_error").argsort().tolist() == [2, 0, 1]


def residual(inputs: Tensor, wanted: Tensor, left: list[int]) -> float:
    """Squared error of the best fit of `wanted` on some of `inputs` and a constant, a sample."""
    x, y = inputs - inputs.mean(0), wanted - wanted.mean(0)
    x = x[:, left]
    gram = x.T @ x
    solution = torch.linalg.lstsq(gram, x.T @ y, driver="gelsd").solution if left else None
    error = y - x @ solution if left else y
    return float(error.square().sum()) / len(inputs)


def test_a_greedy_removal_against_least_squares() -> None:
    """Each removal costs what a new fit on the channels left loses; with 24 the matrices shrink."""
    torch.manual_seed(0)
    width, layer = 24, nn.Linear(24, 5).double()
    inputs = torch.randn(400, width, dtype=torch.double) @ torch.randn(width, width).double()
    scores = refit_order([Consumer(observed(layer, inputs), each_alone(width))])
    order, left, before = scores.argsort().tolist(), list(range(width)), 0.0
    wanted = layer(inputs).detach()
    for channel in order[: width // 2]:
        rises = {k: residual(inputs, wanted, [c for c in left if c != k]) / 2 for k in left}
        assert rises[channel] == pytest.approx(min(rises.values()), rel=0.1)
        assert float(scores[channel]) == pytest.approx(rises[channel] - before, rel=0.2, abs=0.05)
        before = rises[channel]
        left.remove(channel)


def test_consumers_add_up() -> None:
    """Of two consumers, one that needs channel 0 much and one that needs 1 a little."""
    layers = [nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)]
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor([[3.0, 0.0]]))
        layers[1].weight.copy_(torch.tensor([[0.0, 1.0]]))
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    found = refit_order([Consumer(observed(layer, x), each_alone(2)) for layer in layers])
    assert found.tolist() == pytest.approx([4.5, 0.5], rel=2 * RIDGE)


def test_a_convolution_keeps_what_the_others_cannot_say() -> None:
    """Channel 2 is the sum of 0 and 1 before ReLU and never negative: two of the three suffice."""
    torch.manual_seed(1)
    first, second = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 3, padding=1)
    with torch.no_grad():
        first.weight[2], first.bias[:] = first.weight[0] + first.weight[1], 9.0
    model = nn.Sequential(first, nn.ReLU(), second).eval()
    order = scored(model, torch.randn(64, 2, 7, 7), "0").argsort().tolist()
    assert order[0] in (0, 1, 2)
    assert 3 in order[1:]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, 1e3])
def test_inputs_that_never_vary_are_worth_nothing(value: float) -> None:
    layer = nn.Linear(3, 2)
    found = refit_order([Consumer(observed(layer, torch.full((8, 3), value)), each_alone(3))])
    assert bool(torch.isfinite(found).all())
    assert float(found.max()) < 1e-6


def test_a_layer_with_too_many_inputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.recovery.reconstruction.UNKNOWNS", 5)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    with pytest.raises(
        UsageError,
        match=r"refit_error cannot score group 0.* 2: each output has 6 weights, more than 5",
    ):
        scored(model, torch.randn(8, 4), "0")
