from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.profiler.stats import (
    alternating_ratio,
    drift,
    floor_of,
    median_interval,
    paired_ratios,
    process_interval,
    quiet_ratio,
    relative_half_width,
    settled_from,
    spread,
    student_quantile,
    unrounded,
)

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


several = st.lists(st.lists(costs, min_size=1, max_size=12), min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("confidence", "freedom", "table"),
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 5, 2.571), (0.99, 7, 3.499), (0.95, 30, 2.042),
     (0.9, 10, 1.812), (0.5, 4, 0.741)],
)  # fmt: skip
def test_quantiles_are_those_of_printed_tables(
    confidence: float, freedom: int, table: float
) -> None:
    assert student_quantile(confidence, freedom) == pytest.approx(table, abs=6e-4)


@pytest.mark.parametrize(("confidence", "freedom"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_no_quantile_without_doubt_or_data(confidence: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        student_quantile(confidence, freedom)


def test_interval_of_processes_worked_out_by_hand() -> None:
    """Medians 1, e and e^2: mean of logarithms 1, standard deviation 1, t(0.95, 2) = 4.303."""
    values = [[1.0] * 3, [0.5, math.e, 9.0], [math.e**2]]
    centre, low, high = process_interval(values)
    assert centre == pytest.approx(math.e)
    half = 4.3027 / math.sqrt(3)
    assert (low, high) == pytest.approx((math.exp(1 - half), math.exp(1 + half)), rel=1e-4)


@given(several)
def test_the_interval_of_processes_holds_its_centre_and_turns_with_the_ratio(
    values: list[list[float]],
) -> None:
    centre, low, high = process_interval(values)
    assert low <= centre * (1 + 1e-9)
    assert centre <= high * (1 + 1e-9)
    # Odd numbers only: the median of an even number of values is not that of their inverses.
    odd = [process[: len(process) - 1 + len(process) % 2] for process in values]
    turned = process_interval([[1 / v for v in process] for process in odd])
    there = process_interval(odd)
    assert turned[0] == pytest.approx(1 / there[0])
    assert turned[1] == pytest.approx(1 / there[2], rel=1e-6)


@given(several, st.floats(1e-3, 1e3))
def test_the_interval_of_processes_scales(values: list[list[float]], factor: float) -> None:
    scaled = process_interval([[factor * v for v in process] for process in values])
    assert scaled == pytest.approx([factor * x for x in process_interval(values)], rel=1e-6)


def test_one_process_leaves_the_interval_of_its_own_values() -> None:
    values = [list(np.random.default_rng(0).normal(10, 1, 30))]
    assert process_interval(values, resamples=300) == median_interval(values, resamples=300)


def test_costs_of_zero_have_no_logarithm() -> None:
    with pytest.raises(ValueError, match="above 0"):
        process_interval([[1.0, 0.0], [1.0]])


def test_six_processes_that_differ_call_a_difference_as_rarely_as_they_should() -> None:
    """A percentile bootstrap over six processes is wrong more than twice as often as it says."""
    generator = np.random.default_rng(5)
    wrong = {process_interval: 0, median_interval: 0}
    trials = 400
    for _ in range(trials):
        level = generator.normal(0.0, 0.01, (6, 1))
        values = np.exp(level + generator.normal(0.0, 0.03, (6, 60)))
        for interval in wrong:
            _, low, high = interval(values.tolist(), resamples=200)
            wrong[interval] += not low <= 1.0 <= high
    assert wrong[process_interval] / trials <= 0.075
    assert wrong[median_interval] > 1.4 * wrong[process_interval]


def test_warm_up_is_left_out_and_settled_values_stay() -> None:
    steady = [10.0, 10.2, 9.9, 10.1, 10.0] * 12
    assert settled_from(steady) <= 10
    assert settled_from([30.0] * 10 + steady) == 10
    assert settled_from([30.0, 25.0, 20.0, 15.0, 12.0, *steady]) == 5
    assert settled_from([30.0] * 12) == 0
    assert settled_from([5.0, 1.0]) == 0


@given(st.lists(costs, max_size=80))
def test_at_least_half_of_the_values_stay(values: list[float]) -> None:
    cut = settled_from(values)
    assert 0 <= cut <= len(values) / 2
    assert cut % 5 == 0


def test_rounded_values_are_spread_over_the_step_of_their_clock() -> None:
    assert unrounded([5.0, 7.0, 5.0, 5.0, 5.0]).tolist() == [4.625, 7.0, 4.875, 5.125, 5.375]
    assert unrounded([5.0, 5.5]).tolist() == [5.0, 5.5]
    # The median of grouped data: 3 below, 4 in the class from 4.5 to 5.5, 1 above.
    values = [3.0, 4.0, 4.0, 5.0, 5.0, 5.0, 5.0, 6.0]
    assert np.median(unrounded(values)) == pytest.approx(4.5 + (8 / 2 - 3) / 4)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_no_value_moves_by_more_than_half_a_step(values: list[int]) -> None:
    moved = unrounded([float(v) for v in values])
    assert np.abs(moved - values).max() < 0.5
    assert moved.mean() == pytest.approx(np.mean(values))


def test_drift_and_spread_worked_out_by_hand() -> None:
    assert drift([10.0, 10.0, 11.0, 11.0]) == pytest.approx(0.1)
    assert drift([10.0]) == 0.0
    assert spread([[10.0, 10.0], [12.0], [11.0, 11.0]]) == pytest.approx(0.2)


def test_the_ratio_of_alternating_runs_does_not_hang_on_one_value_more() -> None:
    """Who runs second of the same model in a row is 4 % faster; both models are the same."""
    warm, cold = 100.0, 104.0
    first = [warm if number % 2 == 0 else cold for number in range(20)]
    second = [cold if number % 2 == 0 else warm for number in range(20)]
    first[0] = 120.0  # nothing was in the caches yet
    assert alternating_ratio(first, second) == pytest.approx(1.0)
    ratios = sorted(paired_ratios(first, second))
    assert ratios[9] == pytest.approx(1.04)  # what a plain median would say
    assert alternating_ratio([6.0], [3.0]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no values"):
        alternating_ratio([], [])


def test_quiet_rounds_are_those_in_which_both_cost_least_relatively() -> None:
    """Rounds 0 and 1 of each order are quiet; a neighbour slows the second model twice as much."""
    first = [10.0, 10.0, 10.2, 10.2, 12.0, 12.0, 13.0, 13.0]
    second = [4.0, 5.0, 4.0, 5.0, 5.6, 7.0, 6.4, 8.0]
    found = quiet_ratio(first, second, share=0.5)
    assert found.ratio == pytest.approx(10.1 / math.sqrt(20.0), rel=1e-4)  # both orders count
    assert (found.first, found.second) == pytest.approx((10.1, 4.5))
    assert quiet_ratio(first, second, share=0.01) == found, "two of each order at least"
    assert alternating_ratio(first, second) < 0.97 * found.ratio
    assert quiet_ratio([6.0], [3.0]) == (2.0, 6.0, 3.0)


def test_which_rounds_are_quiet_does_not_depend_on_their_ratio() -> None:
    """Where noise is independent, the quiet ratio is the true one."""
    generator = np.random.default_rng(0)
    a, b = (cost * (1 + np.abs(generator.normal(0, 0.05, 20_000))) for cost in (30.0, 10.0))
    assert quiet_ratio(a, b).ratio == pytest.approx(3.0, rel=0.004)


def test_quiet_rounds_of_nothing_are_an_error() -> None:
    for first, second in (([], []), ([1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match=r"no values|cannot be paired|above 0"):
            quiet_ratio(first, second)


def test_figures_of_a_formula_that_are_all_0_do_not_differ() -> None:
    nothing = [[0.0, 0.0, 0.0, 0.0]] * 3
    assert spread(nothing) == 0.0
    assert drift(nothing[0]) == 0.0
    assert relative_half_width((0.0, 0.0, 0.0)) == 0.0


def test_what_differs_from_0_differs_without_bound() -> None:
    assert spread([[0.0], [1.0]]) == math.inf
    assert drift([0.0, 0.0, 1.0, 1.0]) == math.inf
    assert relative_half_width((0.0, 0.0, 1.0)) == math.inf
