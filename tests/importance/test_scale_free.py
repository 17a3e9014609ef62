"""Losses at the best scale of the outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy, mse_loss, nll_loss, one_hot

from edgeprune.data import Data
from edgeprune.errors import UserFunctionError
from edgeprune.importance.meter import LossMeter
from edgeprune.importance.scale_free import is_scale_free, least_loss

TARGET = torch.arange(60) % 3
OUTPUT = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3)[TARGET]
SAME = nn.Identity()


def data_of(output: Tensor, **judges: Any) -> Data:
    batches = [(output[:7], TARGET[:7]), (output[7:], TARGET[7:])]
    return Data(output[:1], None, batches, batches, **judges).guarded()


def least(output: Tensor) -> float:
    data = data_of(output)
    return least_loss(SAME, data, [((x,), y) for x, y in data.calibration])  # type: ignore[misc]


def scale_free(output: Tensor, **judges: Any) -> bool:
    return is_scale_free(SAME, data_of(output, **judges), [((output,), TARGET)])


def of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    return binary_cross_entropy(output, one_hot(target, 3).float())


def negative_error(output: Tensor, target: Tensor) -> float:
    return -float(mse_loss(output[:, 0], target.float()))


def test_loss_is_that_of_the_best_factor_whatever_the_scale() -> None:
    factors = [float(cross_entropy(k / 200 * OUTPUT, TARGET)) for k in range(1, 2000)]
    for scale in (0.5, 0.77, 1.0, 3.0):
        assert least(scale * OUTPUT) == pytest.approx(min(factors), rel=1e-3)
    assert min(factors) < 0.9 * float(cross_entropy(0.25 * OUTPUT, TARGET))


def test_a_model_that_answers_worse_loses_more_though_it_is_surer() -> None:
    worse, shy = OUTPUT.clone(), 0.25 * OUTPUT
    worse[:6] = worse[:6].roll(1, dims=1)
    assert cross_entropy(0.8 * worse, TARGET) < cross_entropy(shy, TARGET)
    assert least(worse) > least(shy)


def test_where_every_answer_is_right_the_largest_factor_is_taken() -> None:
    sure = 10 * torch.eye(3)[TARGET]
    assert least(sure) == pytest.approx(float(cross_entropy(16 * sure, TARGET)), abs=1e-6)


def test_the_metric_and_the_loss_decide_whether_the_scale_counts() -> None:
    assert scale_free(OUTPUT)
    assert not scale_free(OUTPUT, metric=negative_error)
    assert not scale_free(OUTPUT.log_softmax(1), loss=nll_loss)


def test_a_loss_that_refuses_other_outputs_is_plain() -> None:
    assert not scale_free(OUTPUT.softmax(1), loss=of_probabilities)


@pytest.mark.parametrize("refusing", [False, True])
def test_a_meter_takes_the_least_loss_or_the_plain_one(refusing: bool) -> None:
    loss = {"loss": of_probabilities} if refusing else {}
    model = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1) if refusing else nn.Identity())
    meter = LossMeter(model, data_of(OUTPUT, **loss), 60)
    assert meter.scale_free is not refusing
    assert meter.least_increase({}) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_factor_without_a_finite_loss_is_not_the_best(bad: float) -> None:
    def fragile(output: Tensor, target: Tensor) -> Tensor:
        inside = low < float(output.abs().max()) < high
        return cross_entropy(output, target) * (1.0 if inside else bad)

    most = float(OUTPUT.abs().max())
    batches = [((OUTPUT,), TARGET)]
    low, high = most / 3, most * 8
    assert least_loss(SAME, data_of(OUTPUT, loss=fragile), batches) == pytest.approx(least(OUTPUT))
    low = high
    with pytest.raises(UserFunctionError, match="inf for 60 samples of calibration, with a cut"):
        least_loss(SAME, data_of(OUTPUT, loss=fragile), batches, "a cut")
