"""Parts of a job that do not fit the model: told before any work."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from edgeprune.data import Data
from edgeprune.errors import DataError, UsageError, UserFunctionError
from edgeprune.importance.shared import Origin, Shared
from edgeprune.job import Job
from edgeprune.pruning.groups import find_groups
from edgeprune.recovery.regularisation import train_regularised
from edgeprune.stages import base, steps


def job(**sections: Any) -> Job:
    least = {"name": "j", "model": {"factory": "m:f"}, "data": {"factory": "m:f"}}
    return Job.model_validate({**least, "budget": {"latency": "50%"}, **sections})


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def data() -> Data:
    batches = [(torch.randn(16, 4), torch.arange(16) % 3)]
    return Data(torch.randn(1, 4), batches, batches, batches)


def shared() -> base.Given:
    origin = Origin(
        job="j", architecture="a", weights="b", groups={"0": 8}, criteria=("l2",), samples=1,
        seed=0, version="0",
    )  # fmt: skip
    return base.Given(shared=(Shared(Path("s"), origin, {"l2": {"0": torch.ones(8)}}),))


LOSING = {
    "reconstruct": {"recover": {"reconstruct": True}},
    "regularise": {"regularise": {"kind": "group_norm"}},
    "lottery": {"schedule": {"kind": "lottery"}},
}


@pytest.mark.parametrize("name", LOSING)
def test_masks_that_the_model_carries_stay(name: str) -> None:
    masked = network()
    prune.l1_unstructured(masked[0], "weight", 0.5)
    with pytest.raises(UsageError, match=f"carries masks, and .*{name}"):
        steps.check(job(**LOSING[name]), masked, data())
    steps.check(job(**LOSING[name]), network(), data())
    steps.check(job(), masked, data())


@pytest.mark.parametrize(
    "sections",
    [
        {"mask": {"amount": 0.5}},
        {"collapse": {"enabled": True}},
        {"regularise": {"kind": "group_norm"}},
    ],
    ids=lambda sections: next(iter(sections)),
)
def test_scores_of_data_holders_are_of_the_model_that_is_ranked(sections: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"as it is given, and \[{next(iter(sections))}\]"):
        steps.check(job(**sections), network(), data(), shared())
    steps.check(job(**sections), network(), data())
    steps.check(job(), network(), data(), shared())


@pytest.mark.parametrize("size", [1e38, 1e25])
def test_weights_that_a_penalty_ruins_are_told(size: float) -> None:
    model, held = network(), data()
    groups = find_groups(model, held.example).groups
    section = job(
        regularise={"kind": "group_norm", "steps": 1, "learning_rate": size, "strength": 1.0}
    ).regularise
    assert section is not None
    with pytest.raises(DataError, match=r"weights are no longer finite.* after step 1"):
        train_regularised(model, held, groups, section, seed=0)


def test_regularised_training_without_training_data() -> None:
    unlabelled = replace(data(), train=None)
    with pytest.raises(DataError, match="no training batches"):
        steps.check(job(regularise={"kind": "growing"}), network(), unlabelled)


def test_without_training_data_an_epoch_is_one_of_the_calibration_data() -> None:
    batches = data().calibration * 3
    cuts = {"schedule": {"kind": "iterative", "cuts": [[0, 0.2], [2, 0.4]]}}
    for held in (
        replace(data(), train=None, calibration=batches),
        replace(data(), train=batches),
    ):
        first, _ = steps.steps_to(job(**cuts), held, 0.5)
        assert first.training == 2 * 3


@pytest.mark.parametrize(
    ("sections", "needed"),
    [
        ({}, True),
        ({"prune": {"importance": "l2"}}, False),  # nothing to train on
        ({"prune": {"importance": ["l2", "taylor"]}}, True),
    ],
)
def test_a_loss_without_a_gradient_is_found_before_any_work(
    sections: dict[str, Any], needed: bool
) -> None:
    def mistakes(output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) != target).sum()

    given = replace(data(), loss=mistakes, train=None).guarded()
    with pytest.raises(UserFunctionError, match="without a gradient") if needed else nullcontext():
        steps.check(job(**sections), network(), given)
    training = replace(given, train=given.calibration)
    with pytest.raises(UserFunctionError, match="without a gradient"):
        steps.check(job(**sections), network(), training)
