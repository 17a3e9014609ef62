from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.cost.staircase import Curve, find_stair, grid, worth_offering


@st.composite
def curves(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    widths = sorted(draw(st.sets(st.integers(1, 200), min_size=1, max_size=40)))
    costs = draw(st.lists(st.floats(0.1, 1000.0), min_size=len(widths), max_size=len(widths)))
    return widths, costs


@given(curves(), st.floats(0.0, 0.2))
def test_offered_widths_are_cheaper_than_every_wider_one(curve, tolerance: float) -> None:
    widths, costs = curve
    cost = dict(zip(widths, costs, strict=True))
    offered = worth_offering(widths, costs, tolerance=tolerance, most=99)
    assert offered[-1] == widths[-1]  # dense, always
    assert list(offered) == sorted(set(offered) & set(widths))
    for width in offered[:-1]:
        assert all(cost[width] < cost[wider] for wider in widths if wider > width)
    for narrow, wide in itertools.pairwise(offered):
        assert cost[narrow] < cost[wide] - tolerance * costs[-1] * (1 - 1e-9)


@given(curves(), st.floats(0.0, 0.2))
def test_what_is_not_offered_gains_nothing_over_a_wider_width_that_is(
    curve, tolerance: float
) -> None:
    widths, costs = curve
    cost = dict(zip(widths, costs, strict=True))
    offered = worth_offering(widths, costs, tolerance=tolerance, most=99)
    for width in set(widths) - set(offered):
        assert any(
            o > width and cost[width] >= (cost[o] - tolerance * costs[-1]) - 1e-9 for o in offered
        )


@given(curves(), st.integers(1, 6))
def test_no_more_than_asked_for(curve, most: int) -> None:
    widths, costs = curve
    offered = worth_offering(widths, costs, most=most)
    assert 1 <= len(offered) <= most
    assert offered[-1] == widths[-1]
    assert set(offered) <= set(worth_offering(widths, costs, tolerance=0.0, most=99))


@given(curves(), st.floats(0.01, 100.0))
def test_the_unit_does_not_matter(curve, factor: float) -> None:
    widths, costs = curve
    powers = [2.0 ** round(cost / 100) for cost in costs]  # far from any border of the tolerance
    assert worth_offering(widths, powers) == worth_offering(widths, [factor * p for p in powers])


def test_of_a_flat_stair_only_its_top_remains() -> None:
    assert worth_offering([1, 2, 3, 4, 5, 6], [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]) == (2, 4, 6)


def test_a_width_slower_than_a_wider_one_never_appears() -> None:
    assert worth_offering([6, 7, 8, 9], [5.0, 9.0, 6.0, 7.0]) == (6, 8, 9)


def test_what_cannot_be_told_apart_is_offered_where_costs_are_not_known_any_better() -> None:
    widths, costs = [16, 32, 48, 56], [10.0, 8.0, 9.0, 9.0]
    assert worth_offering(widths, costs) == (32, 56)
    assert worth_offering(widths, costs, tolerance=-1.5 / 9) == (32, 48, 56)
    assert worth_offering(widths, costs, tolerance=-2.5 / 9) == tuple(widths)
    assert worth_offering(widths, costs, tolerance=-2.5 / 9, most=2) == (32, 56)


def test_gains_within_the_tolerance_are_noise() -> None:
    assert worth_offering([1, 2], [0.985, 1.0]) == (2,)
    assert worth_offering([1, 2], [0.965, 1.0]) == (1, 2)


@pytest.mark.parametrize(
    ("widths", "costs"), [([], []), ([1], []), ([2, 1], [1.0, 1.0]), ([1, 1], [1.0, 1.0])]
)
def test_malformed_curves_are_refused(widths: list[int], costs: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        worth_offering(widths, costs)


@given(st.integers(1, 3000))
def test_the_grid_runs_up_to_the_dense_width(width: int) -> None:
    points = grid(width)
    assert points[-1] == width
    assert list(points) == sorted(set(points))
    assert points[0] >= 1
    assert len(points) <= 2 * 32 + 1
    gaps = {b - a for a, b in itertools.pairwise(points[:-1])}
    assert len(gaps) <= 1


@pytest.mark.parametrize(
    "width", [16, 24, 32, 48, 64, 72, 80, 96, 112, 120, 128, 144, 160, 192, 200, 240, 256]
)
def test_the_grid_meets_every_multiple_of_eight(width: int) -> None:
    """Stairs of 8 are the usual ones; a grid that steps over them finds widths beside them."""
    assert set(range(8, width + 1, 8)) <= set(grid(width))


def stepped(width: int, step: int) -> float:
    return 5.0 + 2.0 * -(-width // step) * step


@pytest.mark.parametrize("step", [2, 3, 4, 8, 12, 16])
def test_the_tile_is_found_from_a_short_sweep(step: int) -> None:
    widths = range(40, 73)
    stair = find_stair(widths, [stepped(w, step) for w in widths], 0.002)
    assert stair.period == step
    assert stair.shares[1:] == pytest.approx([1.0] * (step - 1))


@pytest.mark.parametrize("tolerance", [0.002, 0.02])
def test_costs_without_stairs_have_tiles_of_one_channel(tolerance: float) -> None:
    widths = range(8, 41)
    curved = [30.0 + 4.0 * w + 0.05 * w * w for w in widths]
    assert find_stair(widths, curved, tolerance).period == 1


def test_noise_does_not_hide_or_make_stairs() -> None:
    random = np.random.default_rng(0)
    widths = range(96, 129)
    for _ in range(50):
        noise = 1.0 + np.abs(random.normal(0.0, 0.01, len(widths)))
        flat = [float(n * 3.0) for n in noise]
        assert find_stair(widths, flat, 0.02).period == 1
        stairs = [float(n * stepped(w, 16)) for n, w in zip(noise, widths, strict=True)]
        assert find_stair(widths, stairs, 0.02).period == 16


def test_rounded_costs_are_straight_where_rounding_hides_the_tile() -> None:
    """A layer of 4 us with a clock of whole microseconds, and one of 120 us."""
    widths = list(range(16, 49))
    costs = [-(-width // 16) * 1.3 for width in widths]
    hidden, seen = np.floor(costs), np.floor([30 * cost for cost in costs])
    stair = find_stair(widths, hidden.tolist(), 0.3 / hidden.max())
    assert stair is not None
    assert stair.period in (1, 16)
    noisy = np.array([2, 1, 2, 1, 3, 1, 2, 1, 3, 2, 3, 1, 2, 3, 2, 1, 3] * 2)[:33] + 0.0
    assert find_stair(widths, noisy.tolist(), 0.005) is None
    straight = find_stair(widths, noisy.tolist(), 0.3)
    assert straight is not None
    assert straight.period == 1
    found = find_stair(widths, seen.tolist(), max(0.005, 0.3 / seen.max()))
    assert found is not None
    assert found.period == 16


def test_what_no_tile_explains_is_not_forced_into_one() -> None:
    """A tile has to be seen twice: fifteen offsets would fit any sixteen costs."""
    random = np.random.default_rng(1)
    wild = [float(c) for c in random.uniform(10.0, 100.0, 16)]
    assert find_stair(range(1, 17), wild, 0.005) is None


def test_ripples_are_no_stairs() -> None:
    """As where a sum over 9 channels' worth of pixels is cut into blocks of 128 products."""
    widths = range(32, 65)
    costs = [500.0 + 10.0 * w + 5.0 * (9 * w // 128) for w in widths]
    assert find_stair(widths, costs, 0.0001).period == 1


def test_remainders_that_cost_more_than_a_whole_tile() -> None:
    """As on ARM64: rows in fours, then a pair, then a single one."""
    extra = (0.0, 1.8, 2.5, 4.3)

    def cost(width: int, pixels: float = 1.0) -> float:
        return 20.0 + pixels * (width // 4 * 4 + extra[width % 4])

    widths = range(17, 34)
    stair = find_stair(widths, [cost(w) for w in widths], 0.002)
    assert stair.period == 4
    assert stair.shares == pytest.approx([e / 4 for e in extra])
    other = Curve({w: cost(w, 7.0) for w in (4, 64)}, stair)  # of the kind, with other pixels
    for width in range(1, 65):
        assert other.at(width) == pytest.approx(cost(width, 7.0))


@pytest.mark.parametrize("cliff", [1.0, 1.4, 2.5])
def test_a_curve_knows_stairs_and_cliffs_from_few_tiles(cliff: float) -> None:
    def cost(width: int) -> float:
        return stepped(width, 16) * (cliff if width % 16 else 1.0)

    widths = range(32, 65)
    stair = find_stair(widths, [cost(w) for w in widths], 0.002)
    curve = Curve({w: cost(w) for w in (16, 64, 128)}, stair)
    for width in range(1, 129):
        assert curve.at(width) == pytest.approx(cost(width))


def test_the_last_tile_is_not_full() -> None:
    widths = range(68, 101)
    stair = find_stair(widths, [stepped(w, 16) for w in widths], 0.002)
    curve = Curve({w: stepped(w, 16) for w in (16, 48, 96, 100)}, stair)
    assert [curve.at(w) for w in (97, 99)] == pytest.approx([stepped(100, 16)] * 2)


@given(st.integers(1, 300), st.integers(1, 8))
def test_grids_of_tiles(width: int, tile: int) -> None:
    assert all(point % tile == 0 or point == width for point in grid(width, divisor=tile))
