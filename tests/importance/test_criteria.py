"""Every criterion against a case worked out by hand, on layers of two and three channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import DataError, UsageError, UserFunctionError
from edgeprune.importance import curvature
from edgeprune.importance.registry import CRITERIA
from edgeprune.importance.scores import score_channels
from edgeprune.methods import METHODS, names
from edgeprune.pruning.groups import find_groups

W1 = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 1.0]])
W2 = torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, -1.0]])
ONE = torch.tensor([[1.0, 2.0]])  # hidden (5, -2, 2)
TWO = torch.tensor([[1.0, 2.0], [0.0, 1.0]])  # hidden (5, -2, 2) and (2, 0.5, 1)


def total(output: Tensor, target: Tensor) -> Tensor:
    """The gradient of this loss in the hidden layer is the column sums of W2: (1, 4, 1)."""
    return output.sum()


def half_square(output: Tensor, target: Tensor) -> Tensor:
    return output.square().sum() / 2


def network(*, relu: bool = False) -> nn.Module:
    """2 -> 3 -> 2 with the weights above."""
    first, second = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(W1)
        second.weight.copy_(W2)
    middle: nn.Module = nn.ReLU() if relu else nn.Identity()
    return nn.Sequential(first, middle, second).eval()


def scores(
    criterion: str,
    x: Tensor = ONE,
    loss: Callable[[Tensor, Tensor], Tensor] = total,
    *,
    relu: bool = False,
    probes: int = 32,
) -> list[float]:
    model = network(relu=relu)
    batches = [(x, torch.zeros(len(x), dtype=torch.long))]
    data = Data(x[:1], None, batches, batches, loss=loss)
    groups = find_groups(model, (x,)).groups
    return score_channels(model, data, groups, criterion, samples=len(x), probes=probes)[
        "0"
    ].tolist()


def test_the_registry_holds_every_available_name() -> None:
    assert {*CRITERIA, "auto"} == set(names("importance"))
    assert len({(m.kind, m.name) for m in METHODS}) == len(METHODS)


def test_variance() -> None:
    # channel 0: weights 1, 2, 1, 0; channel 1: -3, 0.5, 0, 4; channel 2: 0, 1, 2, -1
    expected = [6 / 4 - 1, (9 + 0.25 + 16) / 4 - (1.5 / 4) ** 2, 6 / 4 - 0.25]
    assert scores("variance") == pytest.approx(expected)


def test_lamp() -> None:
    # squared norms 6, 25.25, 6: each over the sum of itself and of what is not smaller
    first, second, third = sorted(scores("lamp"))
    assert (first, second, third) == pytest.approx((6 / 37.25, 6 / 31.25, 1.0))


def test_fpgm() -> None:
    rows = {(0, 1): 2.5, (0, 2): math.sqrt(2), (1, 2): math.sqrt(9.25)}  # of abs(W1)
    columns = {(0, 1): math.sqrt(17), (0, 2): math.sqrt(2), (1, 2): math.sqrt(13)}  # of abs(W2)
    expected = [
        sum(v for d in (rows, columns) for pair, v in d.items() if k in pair) for k in range(3)
    ]
    assert scores("fpgm") == pytest.approx(expected, rel=1e-5)


def test_random_is_seeded_and_uniform() -> None:
    first, again = scores("random"), scores("random")
    assert first == again
    assert all(0 <= score < 1 for score in first)


def test_activation_and_zeros() -> None:
    assert scores("activation", TWO) == pytest.approx([3.5, 1.25, 1.5])
    assert scores("activation", TWO, relu=True) == pytest.approx([3.5, 0.25, 1.5])
    assert scores("apoz", TWO, relu=True) == pytest.approx([1.0, 0.5, 1.0])


def test_gradient() -> None:
    # first layer: g_k * (1 + 2) with g = (1, 4, 1); second: 2 outputs * abs(hidden)
    assert scores("gradient") == pytest.approx([3 + 10, 12 + 4, 3 + 4])


def test_snip() -> None:
    # first: g_k * sum abs(w_ki) x_i = 5, 16, 2; second: abs(h_k) * sum abs(w_ok) = 5, 8, 6
    assert scores("snip") == pytest.approx([10, 24, 8])


def test_fisher_squares_the_gradients_of_single_samples() -> None:
    one = [5 * 1 + 2 * 25, 5 * 16 + 2 * 4, 5 * 1 + 2 * 4]
    two = [1 * 1 + 2 * 4, 1 * 16 + 2 * 0.25, 1 * 1 + 2 * 1]
    expected = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    assert scores("fisher", TWO) == pytest.approx(expected)


def test_grasp_is_weight_times_hessian_times_gradient() -> None:
    # sum of W1 . 2 x h = 2 h^2, sum of W2 . abs(x)^2 g = 5 g^2
    assert scores("grasp") == pytest.approx([2 * 25 + 5, 2 * 4 + 5 * 16, 2 * 4 + 5])


def test_hessian_is_the_trace_by_hutchinson() -> None:
    # L = abs(out)^2 / 2: trace = 2 outputs * h_k^2 + abs(x)^2 * sum of w_ok^2 = 55, 88, 33
    squared_norm, count = (6, 25.25, 6), 4
    expected = [t * n / count for t, n in zip((55, 88, 33), squared_norm, strict=True)]
    assert scores("hessian", loss=half_square, probes=4000) == pytest.approx(expected, rel=0.1)


class Attention(nn.Module):
    """Two heads over three tokens; `fused` leaves the product of attention to torch."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q, self.k, self.v = (nn.Linear(4, 8) for _ in range(3))
        self.out, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return self.head(self.out(mixed.transpose(1, 2).flatten(2)).tanh().mean(1))


@pytest.mark.parametrize("criterion", ["hessian", "grasp"])
def test_fused_attention_has_the_curvature_of_its_formula(criterion: str) -> None:
    torch.manual_seed(0)
    models = [Attention(fused=fused).eval() for fused in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(12, 3, 4)
    data = Data(x[:1], None, [(x, torch.arange(12) % 2)], [], loss=nn.functional.cross_entropy)
    groups = find_groups(models[0], (x[:1],)).groups
    plain, fused = (score_channels(m, data, groups, criterion, samples=12) for m in models)
    assert "out" in plain
    for name, scores in plain.items():
        torch.testing.assert_close(fused[name], scores, rtol=1e-3, atol=1e-6)
    assert torch.backends.cuda.flash_sdp_enabled()  # as before


def test_few_batches_get_more_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    real = curvature._signs
    monkeypatch.setattr(curvature, "_signs", lambda p, g: drawn.append(p.shape) or real(p, g))
    once = scores("hessian", loss=half_square, probes=7)
    assert once == scores("hessian", loss=half_square, probes=7)
    assert len(drawn) == 2 * 7 * 2  # two runs, two parameters


def test_synflow_in_rounds() -> None:
    # abs(W1) 1 = (3, 3.5, 1); column sums of abs(W2) = (1, 4, 3): flows 3, 14, 3 of 20, in both layers.
    # Of three channels one goes after round 4 (the first of equals), another after round 7.
    expected = [4 * 6 / 20, 4 * 28 / 20 + 3 * 28 / 17 + 3 * 2, 4 * 6 / 20 + 3 * 6 / 17]
    assert scores("synflow") == pytest.approx([value / 10 for value in expected])


def test_batches_are_bounded_and_split() -> None:
    seen: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append(len(target))
        return output.mean()

    model = network()
    x = torch.randn(100, 2)
    data = Data(x[:1], None, [(x, torch.zeros(100))] * 3, [], loss=loss)
    score_channels(model, data, find_groups(model, (ONE,)).groups, "snip", samples=130)
    assert seen == [32, 32, 32, 4, 30]


def test_unknown_criterion_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"tailor.*did you mean 'taylor'.*fisher"):
        scores("tailor")


@pytest.mark.parametrize("criterion", [n for n, c in CRITERIA.items() if c.labels])
def test_no_labels_is_an_error_where_they_are_needed(criterion: str) -> None:
    model, x = network(), torch.randn(8, 2)
    for nothing in (torch.empty(0), torch.full((8,), -1), torch.full((8,), math.nan)):
        data = Data(x[:1], None, [(x, nothing)], [])
        with pytest.raises(DataError, match=f"{criterion} needs labels"):
            score_channels(model, data, find_groups(model, (ONE,)).groups, criterion, samples=8)


@pytest.mark.parametrize("criterion", ["taylor", "refit_error", "snip", "hessian"])
def test_a_loss_that_is_not_finite_is_the_users(criterion: str) -> None:
    model, x = network(), torch.randn(8, 2)
    data = Data(x[:1], None, [(x, torch.zeros(8))], [], loss=lambda y, t: y.sum() * math.nan)
    with pytest.raises(UserFunctionError, match="loss returned nan for 8 samples"):
        score_channels(model, data, find_groups(model, (ONE,)).groups, criterion, samples=8)


@pytest.mark.parametrize("criterion", ["activation", "apoz", "synflow", "l2", "lamp"])
def test_labels_are_not_asked_for_in_vain(criterion: str) -> None:
    model, x = network(), torch.randn(8, 2)
    data = Data(x[:1], None, [(x, torch.empty(0))], [])
    found = score_channels(model, data, find_groups(model, (ONE,)).groups, criterion, samples=8)
    assert bool(torch.isfinite(found["0"]).all())


def test_a_criterion_that_cannot_score_a_layer_says_which() -> None:
    with pytest.raises(UsageError, match=r"bn_scale cannot score group 0.*0 \(Linear\)"):
        scores("bn_scale")


def test_recurrent_layers_count_by_hand() -> None:
    # linear 1 -> 2, RNN 2 -> 2, linear 2 -> 1; unit 1 of the RNN: row of ih, row and column of hh, column of head
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.RNN(2, 2, batch_first=True), nn.Linear(2, 1)
            with torch.no_grad():
                self.rnn.weight_ih_l0.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
                self.rnn.weight_hh_l0.copy_(torch.tensor([[5.0, 6.0], [7.0, 8.0]]))
                self.head.weight.copy_(torch.tensor([[9.0, 10.0]]))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    model, x = Net().eval(), torch.randn(4, 3, 2)
    data = Data(x[:1], None, [(x, torch.zeros(4))], [])
    groups = find_groups(model, (x[:1],)).groups
    found = score_channels(model, data, groups, "l1", samples=4)["rnn"].tolist()
    assert found == pytest.approx([1 + 2 + 5 + 6 + 5 + 7 + 9, 3 + 4 + 7 + 8 + 6 + 8 + 10])


def test_depthwise_layers_count_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 2, groups=2, bias=False), nn.Conv2d(2, 1, 1)
    ).eval()
    with torch.no_grad():
        for layer, values in zip(model, ([1, 2], [3, 4, 5, 6, 7, 8, 9, 10], [11, 12]), strict=True):
            layer.weight.copy_(torch.tensor(values).float().view_as(layer.weight))
    x = torch.randn(2, 1, 4, 4)
    data = Data(x[:1], None, [(x, torch.zeros(2))], [])
    groups = find_groups(model, (x[:1],)).groups
    (found,) = (s.tolist() for s in score_channels(model, data, groups, "l1", samples=2).values())
    assert found == pytest.approx([1 + (3 + 4 + 5 + 6) + 11, 2 + (7 + 8 + 9 + 10) + 12])
    assert all(a < b for a, b in pairwise(found))
