"""Polishing against a small problem whose whole losses are known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch

from edgeprune.allocation.closed_loop import Measured
from edgeprune.allocation.polishing import Polish
from edgeprune.allocation.problem import LayerTerm, Problem
from edgeprune.importance.scores import bundled, keep_best
from edgeprune.records import ChannelGroup, PlannedGroup, WidthPlan

WIDTHS = (1, 2, 3, 4)
# Each group costs 25 a channel; the sum of losses prefers narrow a and b, which together lose most.
PROBLEM = Problem(
    names=("a", "b", "c"),
    widths=(WIDTHS,) * 3,
    losses=((0.3, 0.2, 0.1, 0.0), (0.3, 0.2, 0.1, 0.0), (0.9, 0.6, 0.3, 0.0)),
    layers=tuple(
        LayerTerm(name=n, group_in=None, group_out=g, costs=25.0 * np.array([WIDTHS]))
        for g, n in enumerate("abc")
    ),
    fixed=0.0,
)
BUNDLES = {n: ChannelGroup(name=n, width=4, outputs=(n,), inputs=()) for n in "abc"}
SCORES = {"l2": {name: torch.tensor([4.0, 3.0, 2.0, 1.0]) for name in "abc"}}


def planned(widths: Mapping[str, int]) -> dict[str, PlannedGroup]:
    return {
        name: PlannedGroup(before=4, after=width, kept=tuple(range(width)), criterion="l2")
        for name, width in widths.items()
    }


def plan(a: int, b: int, c: int, budget: float = 202.0) -> WidthPlan:
    return WidthPlan(
        groups=planned({"a": a, "b": b, "c": c}), budget=budget, unit="us", predicted=200.0,
        predicted_error=0.0, corrected=200.0, gap=0.0, loss=0.4, allocation="exact",
    )  # fmt: skip


def whole(groups: Mapping[str, PlannedGroup]) -> float:
    """What the sum says, and 2 more for each channel that both a and b lack."""
    a, b, c = (groups[name].after for name in "abc")
    return 0.1 * (4 - a) + 0.1 * (4 - b) + 0.3 * (4 - c) + 2.0 * min(4 - a, 4 - b)


@pytest.mark.parametrize(
    ("error", "widths", "corrected"),
    [
        (1.0, (4, 1, 3), 200.0),  # of all that cost 8 channels, 0.6 + 0 is the least
        (1.05, (2, 2, 4), 200.0),  # the device says 210, so all plans of 8 channels are too dear
    ],
)
def test_it_takes_what_loses_less_as_a_whole_and_fits(
    error: float, widths: tuple[int, int, int], corrected: float
) -> None:
    measured: list[dict[str, PlannedGroup]] = []

    def measure(groups: dict[str, PlannedGroup]) -> Measured:
        measured.append(groups)
        cost = error * 25 * sum(group.after for group in groups.values())
        return Measured(cost, cost, cost, {"ram": 1.0})  # seen, not limited

    found = Polish(PROBLEM, SCORES, BUNDLES, whole, measure)(plan(2, 2, 4))
    after = tuple(found.groups[name].after for name in "abc")
    # a and b are alike: either may be the narrow one
    assert after in (widths, (widths[1], widths[0], widths[2]))
    assert found.corrected == corrected
    assert len(found.rounds) == len(measured)
    if error == 1.0:
        assert len(measured) == 1
        assert found.loss == pytest.approx(0.6)
        # the least sum is proven to be 0.4, so 0.6 is at most a third above it
        assert found.gap == pytest.approx(1 - 0.4 / 0.6)
    else:
        assert (len(measured), found.loss, found.gap) == (1, 0.4, 0.0)


def test_a_plan_that_is_best_stays_and_nothing_is_measured() -> None:
    best = plan(4, 1, 3)

    def never(groups: dict[str, PlannedGroup]) -> Measured:
        raise AssertionError("measured")

    assert Polish(PROBLEM, SCORES, BUNDLES, whole, never)(best) == best


def test_channels_are_ranked_anew_beside_the_other_cuts() -> None:
    best = plan(4, 1, 3)
    scores = SCORES | {
        "fpgm": {n: torch.tensor([1.0, 2.0, 3.0, 4.0]) for n in "abc"},
    }

    def loss(groups: Mapping[str, PlannedGroup]) -> float:
        """Keeping b's last channel helps, keeping c's last one harms."""
        return whole(groups) - 0.1 * (3 in groups["b"].kept) + 0.1 * (3 in groups["c"].kept)

    def never(groups: dict[str, PlannedGroup]) -> Measured:
        raise AssertionError("measured")

    found = Polish(PROBLEM, scores, BUNDLES, loss, never)(best)
    assert {name: group.kept for name, group in found.groups.items()} == {
        "a": (0, 1, 2, 3),
        "b": (3,),
        "c": (0, 1, 2),
    }
    assert [found.groups[name].criterion for name in "abc"] == ["l2", "fpgm", "l2"]
    assert (found.corrected, found.loss) == (best.corrected, best.loss)


def test_the_mean_rank_of_two_criteria_is_a_ranking_too() -> None:
    """Ranks (3, 2, 0, 1) and (0, 1, 2, 3) keep {0, 1} and {2, 3}; their mean keeps {0, 3}."""
    scores = {
        "l2": {n: torch.tensor([4.0, 3.0, 1.0, 2.0]) for n in "abc"},
        "fpgm": {n: torch.tensor([1.0, 2.0, 3.0, 4.0]) for n in "abc"},
    }
    start = plan(2, 2, 4, budget=200.0)  # every neighbour is too cheap or too dear

    def never(groups: dict[str, PlannedGroup]) -> Measured:
        raise AssertionError("measured")

    found = Polish(PROBLEM, scores, BUNDLES, lambda g: 1.0 - 0.1 * (g["a"].kept == (0, 3)), never)(
        start
    )
    assert (found.groups["a"].kept, found.groups["a"].criterion) == ((0, 3), "l2+fpgm")
    assert found.groups["b"] == start.groups["b"]


def test_bundles_of_channels_stay_whole_in_all_that_is_tried() -> None:
    """Equal scores of a bundle have places of their own: means over two criteria would split it."""
    group = ChannelGroup(name="a", width=24, outputs=("a",), inputs=(), divisor=4)
    bundles = group.bundles()
    seed = torch.Generator().manual_seed(0)
    scores = {
        c: {"a": bundled(torch.rand(24, generator=seed), group)} for c in ("l2", "fpgm", "taylor")
    }
    ranks = [scores[c]["a"].argsort().argsort() for c in scores]
    split = [set(keep_best(sum(pair), 12)) for pair in itertools.combinations(ranks, 2)]
    assert any(kept & set(b) and not kept.issuperset(b) for kept in split for b in bundles)
    problem = Problem(
        names=("a",), widths=((8, 12, 24),), losses=((0.4, 0.2, 0.0),),
        layers=(LayerTerm("l", None, 0, np.array([[8.0, 12.0, 24.0]])),), fixed=0.0,
    )  # fmt: skip
    start = WidthPlan(
        groups={"a": PlannedGroup(before=24, after=12, kept=keep_best(scores["l2"]["a"], 12), criterion="l2")},
        budget=12.1, unit="us", predicted=12.0, predicted_error=0.0, corrected=12.0, gap=0.0, loss=0.2,
    )  # fmt: skip
    tried: list[set[int]] = []

    def loss(groups: Mapping[str, PlannedGroup]) -> float:
        tried.append(set(groups["a"].kept))
        return 1.0 / len(tried)  # whatever comes later is better, and so is taken

    def measure(groups: dict[str, PlannedGroup]) -> Measured:
        raise AssertionError("measured")

    found = Polish(problem, scores, {"a": group}, loss, measure)(start)
    assert len({frozenset(kept) for kept in tried}) > 3  # more than the three criteria give
    assert all(kept.issuperset(b) or not kept & set(b) for kept in tried for b in bundles)
    assert "+" in found.groups["a"].criterion


def test_gates_that_lose_less_take_the_place_of_scores() -> None:
    """Keeping b's channels 1 and 3 is best; only the second gates say so. Others keep theirs."""
    best = plan(4, 2, 3, budget=225.0)
    yielded = [{"b": torch.tensor([0.9, 0.1, 0.8, 0.0])}, {"b": torch.tensor([0.1, 0.9, 0.0, 0.8])}]
    asked: list[Mapping[str, PlannedGroup]] = []

    def gates(groups: Mapping[str, PlannedGroup]) -> Iterator[Mapping[str, torch.Tensor]]:
        asked.append(groups)
        yield from yielded

    def loss(groups: Mapping[str, PlannedGroup]) -> float:
        return whole(groups) - 0.1 * (groups["b"].kept == (1, 3))

    def never(groups: dict[str, PlannedGroup]) -> Measured:
        raise AssertionError("measured")

    found = Polish(PROBLEM, SCORES, BUNDLES, loss, never, gates)(best)
    assert (found.groups["b"].kept, found.groups["b"].criterion) == ((1, 3), "gates")
    assert {n: found.groups[n] for n in "ac"} == {n: best.groups[n] for n in "ac"}
    assert asked == [best.groups]


def test_gates_of_the_first_pass_serve_the_second() -> None:
    """Widths move behind gates, and no others are found for what is kept then."""
    learned = [{name: torch.tensor([1.0, 2.0, 3.0, 4.0]) for name in "ab"}]

    def loss(groups: Mapping[str, PlannedGroup]) -> float:
        return whole(groups) - 0.05 * (3 in groups["a"].kept) - 0.05 * (3 in groups["b"].kept)

    def gates(groups: Mapping[str, PlannedGroup]) -> Iterator[Mapping[str, torch.Tensor]]:
        yield from (learned.pop() for _ in range(len(learned)))

    def measure(groups: dict[str, PlannedGroup]) -> Measured:
        cost = 25.0 * sum(group.after for group in groups.values())
        return Measured(cost, cost, cost, {})

    found = Polish(PROBLEM, SCORES, BUNDLES, loss, measure, gates)(plan(2, 2, 4))
    assert sorted(found.groups[name].after for name in "ab") == [1, 4]
    narrow = min(found.groups["a"], found.groups["b"], key=lambda group: group.after)
    assert (narrow.kept, narrow.criterion) == ((3,), "gates")
