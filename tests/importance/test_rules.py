"""Normalisations and rules against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from edgeprune.errors import UsageError
from edgeprune.importance.normalisation import NORMALISATIONS, layer_wise, normalise
from edgeprune.importance.rules import (
    adaptive_alpha,
    layer_adaptive,
    retention,
    variation,
)
from edgeprune.methods import names


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [1, 2, 5]),
        ("sum", [1 / 8, 2 / 8, 5 / 8]),
        ("mean", [3 / 8, 6 / 8, 15 / 8]),
        ("max", [0.2, 0.4, 1.0]),
        ("l2", [1 / 30**0.5, 2 / 30**0.5, 5 / 30**0.5]),
        ("minmax", [0, 0.25, 1]),
        ("gaussian", [-5 / 26**0.5, -2 / 26**0.5, 7 / 26**0.5]),
        ("lamp", [1 / 8, 2 / 7, 1]),
        ("rank", [0, 0.5, 1]),
    ],
)
def test_normalisations_by_hand(how: str, expected: list[float]) -> None:
    found = normalise({"g": torch.tensor([1.0, 2.0, 5.0])}, how)["g"]
    assert found.tolist() == pytest.approx(expected)


def test_every_normalisation_is_a_method() -> None:
    assert set(NORMALISATIONS) == set(names("normalisation"))


@pytest.mark.parametrize("how", [how for how in NORMALISATIONS if how != "lamp"])
def test_negative_scores_keep_their_order(how: str) -> None:
    scores = -1.0 - torch.rand(40, generator=torch.Generator().manual_seed(1))
    assert normalise({"g": scores}, how)["g"].argsort().tolist() == scores.argsort().tolist()


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_normalisation_keeps_the_order(how: str) -> None:
    scores = torch.rand(40, generator=torch.Generator().manual_seed(1)) + 0.1
    assert normalise({"g": scores}, how)["g"].argsort().tolist() == scores.argsort().tolist()


def test_unknown_normalisation() -> None:
    with pytest.raises(UsageError, match="no normalisation 'median'"):
        normalise({}, "median")


def test_variation() -> None:
    assert variation(torch.tensor([1.0, 3.0])) == pytest.approx(0.5)
    assert variation(torch.zeros(3)) == 0.0


def test_retention_by_hand() -> None:
    even = torch.ones(20)  # cv 0: 95 % of 20 are 19 channels
    some = torch.tensor(
        [10.0, 5.0, 5.0, *[0.0] * 17]
    )  # cv = sqrt(150 / 20 - 1) = 2.55: 70 % of 20 are 14
    fewer = torch.tensor(
        [6.0, 6.0, 4.0, 4.0, *[0.0] * 16]
    )  # cv = sqrt(104 / 20 - 1) = 2.05: 80 % of 20 are 16
    assert retention({"even": even, "some": some, "fewer": fewer}) == {
        "even": 19, "some": 2, "fewer": 3,
    }  # fmt: skip
    with pytest.raises(UsageError, match="group g has negative scores"):
        retention({"g": torch.tensor([1.0, -1.0])})


def test_shares_by_hand() -> None:
    weights = {"a": torch.tensor([1.0, -1.0]), "b": torch.tensor([1.0, 3.0])}  # cv 0 and 0.5
    assert adaptive_alpha({"a": 100, "b": 100}, weights, 0.2) == {"a": 80, "b": 70}
    assert adaptive_alpha({"b": 100}, weights, 0.8) == {"b": 10}
    sensitivity = {"a": 0.0, "b": 0.5, "c": 0.95}
    assert layer_adaptive(dict.fromkeys("abc", 100), sensitivity, 0.6) == {
        "a": 40,
        "b": 70,
        "c": 90,
    }
    assert layer_adaptive({"a": 100}, sensitivity, 0.9) == {"a": 20}


def test_layer_wise_takes_the_same_share_of_each_group_and_closes_none() -> None:
    scores = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([7.0, 500.0, 300.0, 2.0])}
    assert layer_wise(scores, 0.5) == {"a": (2, 3), "b": (1, 2)}
    assert layer_wise(scores, 1.0) == {"a": (3,), "b": (1,)}
