"""The terms of the fused importance and its fusions, against cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.importance import families
from edgeprune.importance.families import correlations, effective_rank, uniqueness, unit
from edgeprune.importance.fusion import adaptive_weights, fused, learned_weights, non_negative
from edgeprune.importance.scoring import Scoring
from edgeprune.pruning.groups import find_groups, members
from edgeprune.sections import FusedSection

TARGET = torch.zeros(4)


def total(output: Tensor, target: Tensor) -> Tensor:
    return output.sum() / len(output)


def scoring(
    model: nn.Module, x: Tensor, loss=total, labels: bool = True, **section: object
) -> Scoring:  # type: ignore[no-untyped-def]
    data = Data(
        x[:1], None, [(x, torch.zeros(len(x)) if labels else torch.empty(0))], [], loss=loss
    )
    groups = find_groups(model, (x[:1],)).groups
    traced = members(model, (x[:1],))
    return Scoring(
        model,
        data,
        {g.name: traced[g.name] for g in groups},
        len(x),
        fused=FusedSection.model_validate(section),
        criterion="fused",
    )


def linear() -> nn.Module:
    """2 -> 3 -> 1: hidden (x1, x2, x1 + x2), output 1 * h0 + 2 * h1 + 3 * h2."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Identity(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    return model.eval()


X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def test_unit() -> None:
    assert unit(torch.tensor([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert unit(torch.tensor([7.0, 7.0])).tolist() == [0, 0]


def test_effective_rank_of_kernels() -> None:
    # channel 0: two orthogonal rows of equal size, rank 2; channel 1: two equal rows, rank 1;
    # channel 2: singular values 3 and 1, exp(H(3/4, 1/4)); channel 3: nothing
    model = nn.Sequential(nn.Conv2d(2, 4, (1, 2), bias=False), nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(
            torch.tensor([[[1, 0], [0, 1]], [[1, 1], [1, 1]], [[3, 0], [0, 1]], [[0, 0], [0, 0]]])[
                :, :, None
            ].float()
        )
    found = effective_rank(scoring(model, torch.randn(2, 2, 3, 3)))["0"]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.tolist() == pytest.approx([2, 1, math.exp(entropy), 0], abs=1e-6)


def test_correlations_and_uniqueness() -> None:
    # channels a, -2a, b (uncorrelated with a), constant
    a, b = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    rows = torch.stack([a, -2 * a, b, torch.full((4,), 3.0), torch.ones(4)], 1).double()
    found = correlations(rows.T @ rows)
    assert found[0].tolist() == pytest.approx([1, 1, 0, 0], abs=1e-9)
    assert uniqueness(found).tolist() == pytest.approx([0, 0, 1, 0], abs=1e-9)


def test_activation_family_by_hand() -> None:
    # hidden over the four samples: x1, x2, x1 + x2: (1,0,-1,0), (0,1,0,-1), (1,1,-1,-1)
    found = families.activation(scoring(linear(), X))["0"]
    # channel 2 is highest in frequency (1 against 1/2), magnitude (1, 1/2) and variance (1, 1/2); all have
    # range 2 (no information); its two equal bins have less entropy than bins of 1/4, 1/2, 1/4
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.7])


def test_cooperation_family_by_hand() -> None:
    # output = x1 + 2 x2 + 3 (x1 + x2); saliencies s = a_k * w_k of the four samples:
    # s0 = (1,0,-1,0), s1 = (0,2,0,-2), s2 = (3,3,-3,-3)
    # strength 1, 2, 3; correlations 0-1: 0, 0-2 and 1-2: 1 / sqrt(2) > 0.5: degree 1/2, 1/2, 1
    # cooperation: mean s0 s1 = 0, s0 s2 = 1.5, s1 s2 = 3: (0.75, 1.5, 2.25)
    strength, unique = [0, 0.5, 1], [0, 0, 0]
    degree, together = [0, 0, 1], [0, 0.5, 1]
    expected = [
        0.3 * s + 0.3 * u + 0.2 * d + 0.2 * t
        for s, u, d, t in zip(strength, unique, degree, together, strict=True)
    ]
    found = families.cooperation(scoring(linear(), X))["0"]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_gradient_family_by_hand() -> None:
    # one batch: no spread, so stability is 1 for all that have a gradient, and signs agree with themselves
    x = torch.tensor([[1.0, 1.0]])
    # first layer: abs(w_k) * (1 + 1) = 2, 4, 6; second: hidden 1, 1, 2; three weights a channel
    found = families.gradient(scoring(linear(), x))["0"]
    magnitude = unit(torch.tensor([3.0, 5.0, 8.0])).tolist()
    assert found.tolist() == pytest.approx(
        [0.6 * m for m in magnitude], abs=1e-3
    )  # ratio follows it


def test_base_family_needs_no_labels_and_no_data() -> None:
    found = fused(scoring(linear(), X, labels=False, families=("base",)))["0"]
    # l2: 2, 5, 11; variance of (1,0,1), (0,1,2), (1,1,3): 2/9, 2/3, 8/9; non-zero 2/3, 2/3, 1;
    # entropy of (1/2, 1/2), (1/3, 2/3), (1/5, 1/5, 3/5); ranks are not defined for linear layers
    entropy = [
        -sum(p * math.log(p) for p in row) for row in ([0.5] * 2, [1 / 3, 2 / 3], [0.2, 0.2, 0.6])
    ]
    terms = [
        (0.3, [2.0, 5.0, 11.0]),
        (0.2, [2 / 9, 6 / 9, 8 / 9]),
        (0.2, [2 / 3, 2 / 3, 1.0]),
        (0.2, entropy),
    ]
    expected = sum(weight * unit(torch.tensor(values)) for weight, values in terms)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_adaptive_weights_by_hand() -> None:
    # cv of (0, 1) is 1, of (1, 3) is 0.5, of (2, 2) is 0
    weights = adaptive_weights(torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]]))
    assert weights.tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert adaptive_weights(torch.ones(2, 3)).tolist() == [0.5, 0.5]


def test_non_negative_least_squares_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert non_negative(a, torch.tensor([2.0, 3.0])).tolist() == pytest.approx([2, 3])
    assert non_negative(a, torch.tensor([2.0, -3.0])).tolist() == pytest.approx([2, 0])
    assert non_negative(a, torch.tensor([-2.0, -3.0])).tolist() == [0, 0]
    # clipping the unconstrained optimum (-1, 2) to (0, 2) would be wrong: (0, 1.5) is better
    skew = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert non_negative(skew, torch.tensor([1.0, 2.0])).tolist() == pytest.approx([0, 1.5])


def test_learned_weights_find_the_family_that_explains_the_loss() -> None:
    # loss = -output: removing channel k costs w_k h_k; the first family says just that, the second is noise
    x = torch.tensor([[1.0, 2.0]])
    context = scoring(linear(), x, loss=lambda o, t: -o.mean(), removals=12)
    cost = torch.tensor([1.0 * 1, 2.0 * 2, 3.0 * 3], dtype=torch.float64)
    noise = torch.tensor([1.0, 0.2, 0.1], dtype=torch.float64)
    weights = learned_weights(context, {"0": torch.stack([cost, noise])})
    assert weights.tolist() == pytest.approx([1, 0], abs=1e-6)


def test_learned_weights_refuse_losses_that_no_family_explains() -> None:
    context = scoring(
        linear(), torch.tensor([[1.0, 2.0]]), removals=3
    )  # every removal lowers this loss
    with pytest.raises(UsageError, match="follow none of the families"):
        learned_weights(context, {"0": torch.ones(1, 3, dtype=torch.float64)})


def test_batches_of_fused_are_bounded() -> None:
    seen: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append(len(output))
        return output.mean()

    x = torch.randn(320, 2)
    fused(scoring(linear(), x, loss=loss, batches=3, families=("gradient", "cooperation")))
    assert seen == [32] * 6
