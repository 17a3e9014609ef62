"""Schedules against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgeprune.data import Data
from edgeprune.errors import BudgetError, DataError, WeightsError
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.remainder import Remainder
from edgeprune.pruning.shrink import shrink
from edgeprune.recovery.regularisation import train_regularised
from edgeprune.recovery.schedules import Step, carry_out, epoch_steps, plan_steps, rewind
from edgeprune.sections import RegulariseSection, ScheduleSection


def planned(share: float, **section: Any) -> tuple[Step, ...]:
    schedule = ScheduleSection.model_validate(section)
    return plan_steps(schedule, share, last=400, epoch=lambda: 30)


def test_one_shot_is_a_single_step() -> None:
    assert planned(0.5) == (Step(1, 0.5, 400),)


def test_progressive_takes_the_same_part_of_what_is_left() -> None:
    # a quarter left in two stages: half, then half of the half
    found = planned(0.25, kind="progressive", stages=2, steps=70)
    assert [step.share for step in found] == pytest.approx([0.5, 0.25])
    assert [step.training for step in found] == [70, 400]
    assert [s.share for s in planned(0.729, kind="lottery", rounds=3)] == pytest.approx(
        [0.9, 0.81, 0.729]
    )
    assert planned(1.0, kind="progressive") == (Step(1, 1.0, 400),)


def test_iterative_takes_the_listed_amounts_down_to_the_budget() -> None:
    found = planned(0.5, kind="iterative", cuts=[(0, 0.2), (3, 0.1), (7, 0.3), (9, 0.1)])
    assert [step.share for step in found] == pytest.approx([0.8, 0.7, 0.5])
    assert [step.training for step in found] == [3 * 30, 4 * 30, 400]


def test_cuts_that_never_reach_the_budget_are_told_with_both_figures() -> None:
    with pytest.raises(BudgetError, match=r"never reaches.* 70\.0 % .*budget 50\.0 %") as caught:
        planned(0.5, kind="iterative", cuts=[(0, 0.2), (1, 0.1)])
    assert caught.value.exit_code == 1


METRICS = {0.1: 0.9, 0.2: 0.95, 0.3: 0.73, 0.4: 0.71, 0.5: 0.99}
STEPS = tuple(Step(number, share, 0) for number, share in enumerate(METRICS, start=1))


def test_the_last_good_state_is_returned_when_the_metric_falls() -> None:
    # 0.8 of the first step's 0.9 is 0.72: step 3 (0.73) is good, step 4 (0.71) is not
    def advance(state: tuple[float, ...] | None, step: Step) -> tuple[float, ...]:
        return (*(state or ()), step.share)

    found = carry_out(STEPS, advance, lambda state: METRICS[state[-1]], least_share=0.8)
    assert found.state == (0.1, 0.2, 0.3)
    assert [value for _, value in found.tried] == [0.9, 0.95, 0.73, 0.71]
    assert (
        "step 4 of 5: the metric 0.71 is over 20 % worse than the first step's 0.9" in found.stopped
    )


def test_a_metric_below_zero_may_get_worse_by_the_same_share() -> None:
    worse = {0.1: -0.5, 0.2: -0.5, 0.3: -0.59, 0.4: -0.61, 0.5: -0.4}
    found = carry_out(
        STEPS, lambda _, step: step.share, lambda state: worse[state], least_share=0.8
    )
    assert (found.state, len(found.tried)) == (0.3, 4)
    assert "-0.61 is over 20 % worse than the first step's -0.5" in found.stopped


def test_without_a_least_share_every_step_is_taken() -> None:
    found = carry_out(STEPS, lambda state, step: step.share, lambda state: METRICS[state])
    assert (found.state, found.stopped, len(found.tried)) == (0.5, "", 5)


def test_an_epoch_is_counted() -> None:
    assert (epoch_steps(None), epoch_steps([1, 2, 3]), epoch_steps(iter("ab"))) == (0, 3, 2)


def test_rewinding_gives_the_surviving_weights_their_early_values(build) -> None:  # type: ignore[no-untyped-def]
    model, inputs = build("plain")
    early = {
        name: torch.randn_like(value) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    slim = rewind(model, inputs, {"conv1": (1, 4, 7)}, early)
    torch.testing.assert_close(slim.conv1.weight.detach(), early["conv1.weight"][[1, 4, 7]])
    torch.testing.assert_close(slim.conv2.weight.detach(), early["conv2.weight"][:, [1, 4, 7]])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(WeightsError, match="does not fit"):
        rewind(model, inputs, {}, {"conv1.weight": early["conv1.weight"]})


def test_later_plans_are_understood_by_what_is_left(build, groups_of, make_plan) -> None:  # type: ignore[no-untyped-def]
    model, inputs = build("plain")
    groups = groups_of("plain")
    first = make_plan(groups, {"conv1": 8, "conv2": 12})  # keeps the channels of highest index
    left = Remainder.of(shrink(model, inputs, first), first)
    scores = {"conv1": torch.arange(8.0), "conv2": torch.arange(12.0)}
    whole = left.scores(scores, groups)["conv1"]
    assert whole[:8].tolist() == pytest.approx([-0.07] * 8)  # a hundredth of the range below 0
    assert whole[8:].tolist() == list(range(8))
    assert [group.width for group in left.groups(groups).groups] == [8, 12]
    second = make_plan(groups, {"conv1": 4, "conv2": 12})
    relative = left.relative(second)
    assert relative.groups["conv1"].kept == (4, 5, 6, 7)
    torch.testing.assert_close(
        shrink(left.model, inputs, relative)(*inputs), shrink(model, inputs, second)(*inputs)
    )


def data_of(train: bool = True) -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (64,), generator=generator)
    x = torch.randn(64, 3, 8, 8, generator=generator) + labels[:, None, None, None] / 3
    pairs = [(x, labels)]
    return Data(x[:1], pairs if train else None, pairs, pairs)


@pytest.mark.parametrize("kind", ["group_norm", "bn_scale", "growing"])
def test_regularised_training_lowers_the_weaker_half(kind: str, build) -> None:  # type: ignore[no-untyped-def]
    model, inputs = build("plain")
    groups = find_groups(model, inputs).groups
    settings = RegulariseSection(kind=kind, steps=20, strength=0.2, learning_rate=0.05)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = train_regularised(model, data_of(), groups, settings, seed=0)
    plain = settings.model_copy(update={"strength": 1e-12})
    without = train_regularised(model, data_of(), groups, plain, seed=0)
    assert found.history[-1][2] < without.history[-1][2]
    assert [step for step, _, _ in found.history] == list(range(2, 21, 2))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(DataError, match="no training batches"):
        train_regularised(model, data_of(train=False), groups, settings, seed=0)
