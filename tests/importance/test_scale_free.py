"""Losses at the best scale of the outputs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from edgeprune.data import Data
from edgeprune.importance.scale_free import is_scale_free, least_loss

TARGET = torch.arange(60) % 3
OUTPUT = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3)[TARGET]
BATCHES = [(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))]
DATA = Data(torch.zeros(1, 2), None, BATCHES, BATCHES)


def test_loss_does_not_depend_on_the_scale() -> None:
    found = [least_loss(DATA, [(s * OUTPUT, TARGET)]) for s in (0.25, 1.0, 4.0)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)
    assert found[0] < float(DATA.loss(0.25 * OUTPUT, TARGET))


def test_a_model_that_answers_worse_loses_more_though_it_is_surer() -> None:
    worse = OUTPUT.clone()
    worse[:12] = worse[:12].roll(1, dims=1)
    shy = 0.1 * OUTPUT
    assert DATA.loss(worse, TARGET) < DATA.loss(shy, TARGET)
    assert least_loss(DATA, [(worse, TARGET)]) > least_loss(DATA, [(shy, TARGET)])


def test_batches_count_by_their_samples() -> None:
    whole = least_loss(DATA, [(OUTPUT, TARGET)])
    parts = [(OUTPUT[:7], TARGET[:7]), (OUTPUT[7:], TARGET[7:])]
    assert least_loss(DATA, parts) == pytest.approx(whole, rel=1e-5)


def test_accuracy_leaves_the_scale_out_and_an_error_does_not() -> None:
    def negative_error(output: Tensor, target: Tensor) -> float:
        return -float(mse_loss(output[:, 0], target.float()))

    assert is_scale_free(DATA, [(OUTPUT, TARGET)])
    regression = dataclasses.replace(DATA, metric=negative_error)
    assert not is_scale_free(regression, [(OUTPUT, TARGET)])
