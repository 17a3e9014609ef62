"""Schedules against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from edgeprune.errors import UsageError, WeightsError
from edgeprune.recovery.schedules import Stage, carry_out, iterative, one_shot, progressive, rewind


def test_iterative_amounts_add_up() -> None:
    assert one_shot(0.5) == (Stage(0, 0.5),)
    found = iterative([(0, 0.2), (3, 0.1), (7, 0.3)])
    assert [stage.epoch for stage in found] == [0, 3, 7]
    assert [stage.share for stage in found] == pytest.approx([0.2, 0.3, 0.6])


@pytest.mark.parametrize(
    "steps", [[], [(0, 0.5), (0, 0.1)], [(2, 0.5), (1, 0.1)], [(0, 0.6), (1, 0.4)], [(0, 0.0)], [(-1, 0.2)]]
)  # fmt: skip
def test_impossible_lists_are_refused(steps: list[tuple[int, float]]) -> None:
    with pytest.raises(UsageError, match="schedule iterative"):
        iterative(steps)


def test_progressive_takes_the_same_part_of_what_is_left() -> None:
    # 0.75 gone in two stages: half, then half of the half
    assert progressive(0.75, 2) == pytest.approx((0.5, 0.75))
    assert progressive(0.3, 1) == pytest.approx((0.3,))
    with pytest.raises(UsageError):
        progressive(1.0, 3)


METRICS = {0.1: 0.9, 0.2: 0.95, 0.3: 0.73, 0.4: 0.71, 0.5: 0.99}


def test_the_last_good_state_is_returned_when_the_metric_falls() -> None:
    # 0.8 of the first stage's 0.9 is 0.72: stage 3 (0.73) is good, stage 4 (0.71) is not
    tried: list[float] = []

    def advance(state: tuple[float, ...], share: float) -> tuple[float, ...]:
        tried.append(share)
        return (*state, share)

    found = carry_out((), tuple(METRICS), advance, lambda state: METRICS[state[-1]])
    assert found.state == (0.1, 0.2, 0.3)
    assert found.history == ((0.1, 0.9), (0.2, 0.95), (0.3, 0.73))
    assert "stage 4 of 5: metric 0.71 is under 0.8 of the first stage's 0.9" in found.stopped
    assert tried == [0.1, 0.2, 0.3, 0.4]


def test_a_schedule_that_ends_well_has_nothing_to_say() -> None:
    found = carry_out(0.0, (0.1, 0.2), lambda state, share: share, lambda state: METRICS[state])
    assert (found.state, found.stopped) == (0.2, "")


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
