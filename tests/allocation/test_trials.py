"""Trials against a small problem in which what recovery makes of each plan is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import pytest

from edgeprune.allocation.closed_loop import Measured
from edgeprune.allocation.polishing import Polish
from edgeprune.allocation.trials import COUNT, MEASURED, Trials, trial_steps
from edgeprune.records import PlannedGroup, Round
from tests.allocation.test_polishing import BUNDLES, PROBLEM, SCORES, plan, whole

RANKINGS = dict.fromkeys("abc", "l2")
Groups = Mapping[str, PlannedGroup]
Widths = tuple[int, ...]


def widths(groups: Groups) -> tuple[int, ...]:
    return tuple(groups[name].after for name in "abc")


class Bench:
    """Trials of PROBLEM; plans of 8 channels are in the window if the device says the predicted.

    Args:
        recovered: loss after recovery by widths; 1.0 for all others.
        error: what the device says over what is predicted, by widths; 1.0 for all others.
    """

    def __init__(
        self, recovered: Mapping[Widths, float], error: Mapping[Widths, float] | None = None
    ) -> None:
        self.tried: list[Widths] = []
        self.measured: list[Widths] = []
        self.error = error or {}
        self.recovered = recovered
        self.other_channels = False
        polish = Polish(PROBLEM, SCORES, BUNDLES, whole, self._measure)
        self.trials = Trials(polish, self._recover, RANKINGS, self._ranked, steps=100)

    def _measure(self, groups: Groups) -> Measured:
        self.measured.append(widths(groups))
        cost = self.error.get(widths(groups), 1.0) * 25 * sum(widths(groups))
        return Measured(cost, cost, cost)

    def _ranked(self, groups: Groups) -> dict[str, PlannedGroup]:
        """Keep the last channels of group c in place of the best."""
        last = groups["c"].model_copy(update={"kept": tuple(range(4 - groups["c"].after, 4))})
        return {**groups, "c": last} if self.other_channels else dict(groups)

    def _recover(self, plans: Sequence[Groups]) -> list[tuple[float, float]]:
        now = [widths(groups) for groups in plans]
        self.tried += now
        return [(2.0, self.recovered.get(one, 1.0)) for one in now]


def test_the_plan_that_recovers_best_is_taken_and_it_alone_is_measured() -> None:
    """All plans of 8 channels cost the same; two objectives lead to the most even widths."""
    even = {(2, 3, 3), (3, 2, 3), (3, 3, 2)}
    bench = Bench({(2, 2, 4): 0.5, **dict.fromkeys(even, 0.2)})
    found = bench.trials(plan(2, 2, 4, budget=203.0))
    best = next(one for one in bench.tried if one in even)
    assert bench.tried[0] == (2, 2, 4)
    assert len(bench.tried) == len(set(bench.tried)) == COUNT
    assert all(sum(one) == 8 for one in bench.tried)
    assert widths(found.groups) == best
    assert bench.measured == [best]
    assert found.corrected == 200.0
    assert found.loss == pytest.approx(0.6)
    assert [tuple(t.widths.values()) for t in found.trials] == bench.tried
    assert [t.loss for t in found.trials] == [
        0.5,
        *(0.2 if one in even else 1.0 for one in bench.tried[1:]),
    ]
    assert {(t.start, t.steps, t.predicted) for t in found.trials} == {(2.0, 100, 200.0)}
    (last,) = found.rounds
    assert (tuple(last.widths.values()), last.measured) == (best, 200.0)


@pytest.mark.parametrize("total", [6, 7, 8])
def test_the_second_trial_is_the_plan_of_the_most_even_shares(total: int) -> None:
    bench = Bench({})
    bench.trials(plan(2, 2, total - 4, budget=25.0 * total + 0.5))
    other = bench.tried[1]
    possible = [p for p in product(range(1, 5), repeat=3) if sum(p) == total]
    spread = {p: max(p) - min(p) for p in possible if p != (2, 2, total - 4)}
    assert spread[other] == min(spread.values())


def test_a_plan_that_recovers_best_stays_as_it_was_with_its_channels() -> None:
    start = plan(2, 2, 4, budget=203.0)
    other = start.groups["a"].model_copy(update={"kept": (1, 3), "criterion": "fpgm"})
    start = start.model_copy(update={"groups": {**start.groups, "a": other}})
    bench = Bench({(2, 2, 4): 0.1})
    found = bench.trials(start)
    assert len(bench.tried) == len(found.trials) == COUNT
    assert bench.measured == []
    assert found.groups == start.groups
    assert (found.loss, found.corrected, found.gap) == (start.loss, start.corrected, start.gap)


@pytest.mark.parametrize("best", [(2, 2, 4), (3, 3, 2)])
def test_channels_are_ranked_for_each_plan(best: Widths) -> None:
    bench = Bench({best: 0.1})
    bench.other_channels = True
    found = bench.trials(plan(2, 2, 4, budget=203.0))
    assert widths(found.groups) == best
    assert found.groups["c"].kept == tuple(range(4 - best[2], 4))


def test_plans_that_another_surpasses_are_not_tried() -> None:
    """Group a is nearly free, so plans of 1 to 4 of its channels cost the same."""
    bench = Bench({})
    terms = tuple(
        replace(term, costs=term.costs * (0.01 if term.group_out == 0 else 1.0))
        for term in PROBLEM.layers
    )
    cheap = replace(PROBLEM, layers=terms)
    bench.trials = replace(bench.trials, polish=replace(bench.trials.polish, problem=cheap))
    bench.trials(plan(4, 2, 3, budget=126.5))
    assert sorted(bench.tried) == [(4, 1, 4), (4, 2, 3), (4, 3, 2), (4, 4, 1)]


def test_a_plan_outside_the_window_gives_way_to_the_next_best() -> None:
    """The device finds the best too dear and the second too cheap."""
    bench = Bench(
        {(4, 1, 3): 0.1, (1, 4, 3): 0.2, (3, 1, 4): 0.3, (2, 2, 4): 0.4},
        {(4, 1, 3): 1.1, (1, 4, 3): 0.9},
    )
    found = bench.trials(plan(2, 2, 4, budget=203.0))
    assert bench.measured == [(4, 1, 3), (1, 4, 3), (3, 1, 4)]
    assert widths(found.groups) == (3, 1, 4)
    assert [one.measured for one in found.rounds] == pytest.approx([220.0, 180.0, 200.0])


def test_the_given_plan_stays_where_the_device_refuses_all_others() -> None:
    bench = Bench({(2, 2, 4): 2.0}, dict.fromkeys(product((1, 2, 3, 4), repeat=3), 1.1))
    start = plan(2, 2, 4, budget=203.0)
    found = bench.trials(start)
    assert len(bench.measured) == 2 * MEASURED  # in the first round and in the second
    assert found.groups == start.groups
    assert found.corrected == start.corrected
    assert all(one.measured > start.budget for one in found.rounds)


def test_the_dense_model_is_not_tried() -> None:
    dense = plan(4, 4, 4, budget=400.0)
    bench = Bench({})
    assert bench.trials(dense) == dense
    assert bench.tried == []


@pytest.mark.parametrize(
    ("steps", "trial"),
    [(0, 0), (40, 40), (100, 100), (400, 100), (1000, 125), (1600, 200), (8000, 250)],
)
def test_a_trial_takes_an_eighth_of_recovery(steps: int, trial: int) -> None:
    assert trial_steps(steps) == trial


def test_prices_of_an_explanation_know_all_plans_that_were_measured() -> None:
    polish = Bench({}).trials.polish
    given = plan(2, 2, 4, budget=203.0)
    rounds = tuple(
        Round(
            widths=dict(zip("abc", at, strict=True)),
            predicted=200.0,
            measured=cost,
            low=cost,
            high=cost,
        )
        for at, cost in (((2, 2, 4), 200.0), ((2, 3, 3), 240.0))
    )
    given = given.model_copy(update={"rounds": rounds})
    choice = polish.choice_of(given)
    priced = polish.scaled(given, choice, 200.0)
    assert priced.cost(choice) == pytest.approx(200.0)
    assert priced.cost((1, 2, 2)) > 215.0
