from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.profiler.stats import floor_of, median_interval, paired_ratios, relative_half_width

costs = st.floats(0.01, 1e6)
processes = st.lists(st.lists(costs, min_size=1, max_size=12), min_size=1, max_size=4)


@given(processes)
def test_the_interval_holds_the_median_and_lies_within_the_values(
    values: list[list[float]],
) -> None:
    median, low, high = median_interval(values, resamples=60)
    flat = [v for process in values for v in process]
    assert median == pytest.approx(float(np.median(flat)))
    assert min(flat) * (1 - 1e-12) <= low <= median <= high <= max(flat) * (1 + 1e-12)


@given(processes, st.floats(1e-3, 1e3))
def test_another_unit_scales_the_interval(values: list[list[float]], factor: float) -> None:
    scaled = median_interval([[factor * v for v in p] for p in values], resamples=60)
    assert scaled == pytest.approx([factor * x for x in median_interval(values, resamples=60)])


@given(processes, st.randoms(use_true_random=False))
def test_the_order_of_values_within_a_process_does_not_matter(
    values: list[list[float]], order: random.Random
) -> None:
    turned = [order.sample(process, len(process)) for process in values]
    assert median_interval(turned, resamples=60) == pytest.approx(
        median_interval(values, resamples=60)
    )


@given(processes)
def test_more_confidence_is_never_narrower(values: list[list[float]]) -> None:
    _, low, high = median_interval(values, confidence=0.5, resamples=60)
    _, lower, higher = median_interval(values, confidence=0.99, resamples=60)
    assert lower <= low <= high <= higher


def test_equal_values_leave_no_doubt() -> None:
    assert median_interval([[5.0] * 9, [5.0] * 3]) == (5.0, 5.0, 5.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [list(np.random.default_rng(0).normal(10, 1, 30)) for _ in range(3)]
    assert median_interval(values, seed=4) == median_interval(values, seed=4)
    assert len({median_interval(values, seed=seed, resamples=25) for seed in range(8)}) > 1


def test_processes_that_disagree_widen_the_interval() -> None:
    """Values that are tight within each process say little about the next process."""
    generator = np.random.default_rng(1)
    apart = [list(generator.normal(centre, 0.01, 50)) for centre in (9.0, 10.0, 11.0, 12.0)]
    together = [list(generator.permutation(np.concatenate(apart))[:50]) for _ in range(4)]
    _, low, high = median_interval(apart)
    flat = median_interval([[v for p in apart for v in p]])
    assert high - low > 1.5
    assert high - low > 1.3 * (flat[2] - flat[1])
    assert relative_half_width(median_interval(together)) < relative_half_width((10.5, low, high))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for trial in range(120):
        values = [list(generator.normal(10.0, 1.0, 25)) for _ in range(1)]
        _, low, high = median_interval(values, seed=trial, resamples=200)
        hits += low <= 10.0 <= high
    assert 0.85 <= hits / 120 <= 1.0


def test_empty_processes_do_not_count_and_nothing_is_an_error() -> None:
    assert median_interval([[], [3.0], []])[0] == 3.0
    for nothing in ([], [[], []]):
        with pytest.raises(ValueError, match="no values"):
            median_interval(nothing)


@given(st.lists(costs, min_size=1, max_size=60))
def test_the_floor_lies_between_minimum_and_mean(values: list[float]) -> None:
    floor = floor_of(values)
    assert min(values) * (1 - 1e-9) <= floor <= float(np.mean(values)) * (1 + 1e-9)
    assert floor == pytest.approx(floor_of(values[::-1]))


def test_the_floor_is_the_mean_of_the_smallest_tenth_but_of_two_at_least() -> None:
    assert floor_of([float(v) for v in range(30, 0, -1)]) == pytest.approx((1 + 2 + 3) / 3)
    assert floor_of([9.0, 1.0, 3.0]) == 2.0
    assert floor_of([7.0]) == 7.0
    with pytest.raises(ValueError, match="no values"):
        floor_of([])


@given(st.lists(costs, min_size=1, max_size=20), st.floats(0.1, 10))
def test_outliers_above_do_not_move_the_floor(values: list[float], factor: float) -> None:
    calm = [10.0] * 40
    assert floor_of(calm + [10.0 + v for v in values]) == pytest.approx(10.0)


def test_paired_ratios_pair_by_round() -> None:
    assert paired_ratios([2.0, 9.0], [1.0, 3.0]).tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("first", "second"),
    [([1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 1.0]), ([1.0], [-1.0]), ([1.0], [0.0])],
)
def test_ratios_that_mean_nothing_are_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match=r"paired|above 0"):
        paired_ratios(first, second)


@given(st.lists(st.tuples(costs, costs), min_size=1, max_size=20))
def test_swapping_the_models_inverts_the_ratios(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    assert (paired_ratios(first, second) * paired_ratios(second, first)) == pytest.approx(
        [1.0] * len(pairs)
    )


def test_half_width_is_relative() -> None:
    assert relative_half_width((10.0, 9.0, 12.0)) == pytest.approx(0.15)
    assert math.isclose(relative_half_width((5.0, 5.0, 5.0)), 0.0)
