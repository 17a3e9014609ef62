"""Trials against a small problem in which what recovery makes of each plan is known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgeprune.allocation.closed_loop import Measured
from edgeprune.allocation.polishing import Polish
from edgeprune.allocation.trials import COUNT, Trials, trial_steps
from edgeprune.records import PlannedGroup
from tests.allocation.test_polishing import PROBLEM, SCORES, plan, whole

RANKINGS = dict.fromkeys("abc", "l2")
Groups = Mapping[str, PlannedGroup]


def widths(groups: Groups) -> tuple[int, ...]:
    return tuple(groups[name].after for name in "abc")


def trials(
    recovered: Mapping[tuple[int, ...], float], error: float = 1.0
) -> tuple[Trials, list[tuple[int, ...]]]:
    """Plans of 8 channels are in the window if the device says what was predicted."""
    tried: list[tuple[int, ...]] = []

    def measure(groups: Groups) -> Measured:
        cost = error * 25 * sum(widths(groups))
        return Measured(cost, cost, cost)

    def after(groups: Groups) -> float:
        tried.append(widths(groups))
        return recovered.get(widths(groups), 1.0)

    polish = Polish(PROBLEM, SCORES, whole, measure)
    return Trials(polish, after, RANKINGS, steps=100), tried


def test_the_plan_that_recovers_best_is_taken() -> None:
    """All plans of 8 channels cost the same; two objectives lead to the most even widths."""
    start = plan(2, 2, 4, budget=203.0)
    even = {(2, 3, 3), (3, 2, 3), (3, 3, 2)}
    trial, tried = trials({(2, 2, 4): 0.5, **dict.fromkeys(even, 0.2)})
    found = trial(start)
    assert tried[0] == (2, 2, 4)
    assert len(tried) == len(set(tried)) == COUNT
    assert all(sum(one) == 8 for one in tried)
    assert widths(found.groups) == next(one for one in tried if one in even)
    assert found.corrected == 200.0
    assert found.loss == pytest.approx(0.6)
    assert [tuple(t.widths.values()) for t in found.trials] == tried
    assert [t.loss for t in found.trials] == [
        0.5,
        *(0.2 if one in even else 1.0 for one in tried[1:]),
    ]
    assert {t.steps for t in found.trials} == {100}
    assert len(found.rounds) == COUNT - 1  # all but the given plan were measured here


def test_a_plan_that_recovers_best_stays_as_it_was_with_its_channels() -> None:
    start = plan(2, 2, 4, budget=203.0)
    other = start.groups["a"].model_copy(update={"kept": (1, 3), "criterion": "fpgm"})
    start = start.model_copy(update={"groups": {**start.groups, "a": other}})
    trial, tried = trials({(2, 2, 4): 0.1})
    found = trial(start)
    assert len(tried) == COUNT
    assert found.groups == start.groups
    assert (found.loss, found.corrected, found.gap) == (start.loss, start.corrected, start.gap)
    assert len(found.trials) == COUNT


def test_where_recovery_hardly_differs_the_least_whole_loss_decides() -> None:
    """(4, 1, 3) loses 0.6 as a whole and the others more, but for (1, 4, 3), which is like it."""
    start = plan(2, 2, 4, budget=203.0)
    trial, _ = trials({})
    trial = Trials(
        trial.polish,
        lambda g: {(2, 2, 4): 1.0, (4, 1, 3): 1.019}.get(widths(g), 1.5),
        RANKINGS,
        steps=100,
    )
    found = trial(start)
    assert (4, 1, 3) in [tuple(t.widths.values()) for t in found.trials]
    assert widths(found.groups) == (4, 1, 3)
    far = Trials(
        trial.polish,
        lambda g: {(2, 2, 4): 1.0, (4, 1, 3): 1.021}.get(widths(g), 1.5),
        RANKINGS,
        steps=100,
    )
    assert widths(far(start).groups) == (2, 2, 4)


def test_plans_outside_the_window_are_not_tried() -> None:
    """The device says 10 % more than predicted, so all plans of 8 channels are too dear."""
    start = plan(2, 2, 4, budget=203.0)
    trial, tried = trials({}, error=1.1)
    found = trial(start)
    assert tried == []  # with nothing to compare, nothing is trained
    assert found.groups == start.groups
    assert len(found.rounds) >= 1
    assert all(one.measured > start.budget for one in found.rounds)


def test_the_dense_model_is_not_tried() -> None:
    dense = plan(4, 4, 4, budget=400.0)
    trial, tried = trials({})
    assert trial(dense) == dense
    assert tried == []


@pytest.mark.parametrize(
    ("steps", "trial"),
    [(0, 0), (40, 40), (100, 100), (400, 100), (1000, 125), (1600, 200), (8000, 250)],
)
def test_a_trial_takes_an_eighth_of_recovery(steps: int, trial: int) -> None:
    assert trial_steps(steps) == trial
