"""Which kernel runs which width, and what it costs there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.cost.branches import BranchPrices
from edgeprune.cost.kernels import find_kernels, spread
from edgeprune.cost.prediction import Predictor
from edgeprune.cost.staircase import Curve, find_stair
from edgeprune.records import (
    Branch,
    CostTable,
    Environment,
    Kernels,
    LayerStair,
    Price,
    PricedLayer,
    Stair,
)

STRAIGHT = Stair(period=1, shares=(0.0,))
BLOCKED = Kernels(multiple=4, start=16)


def forms(rule: Kernels, widths: range) -> dict[int, int]:
    return {width: rule.at(width) for width in widths}


@given(st.integers(2, 8), st.integers(1, 20))
def test_the_rule_is_found_from_what_ran(multiple: int, start: int) -> None:
    rule, widths = Kernels(multiple=multiple, start=start), range(1, 41)
    found = find_kernels(forms(rule, widths))
    assert all((found.at(a) == found.at(b)) == (rule.at(a) == rule.at(b))
               for a in range(start, 41) for b in range(start, 41))  # fmt: skip
    assert found.start <= start


@pytest.mark.parametrize("widths", [range(1, 33), range(96, 129), range(7, 8)])
def test_where_all_widths_run_alike_there_is_one_kernel(widths: range) -> None:
    assert find_kernels(dict.fromkeys(widths, "Conv")) == Kernels()


def test_what_follows_no_rule_is_not_forced_into_one() -> None:
    assert find_kernels({width: width * width % 7 for width in range(1, 33)}) == Kernels()


def test_a_rule_of_which_the_sweep_shows_all() -> None:
    assert find_kernels(forms(BLOCKED, range(1, 33))) == BLOCKED
    assert find_kernels(forms(BLOCKED, range(32, 65))) == Kernels(multiple=4)


@given(st.lists(st.integers(1, 99), min_size=1, unique=True), st.integers(1, 5))
def test_spread_widths_have_both_ends(widths: list[int], count: int) -> None:
    widths.sort()
    found = spread(widths, count)
    assert set(found) <= set(widths)
    assert len(found) <= count
    assert found[0] == widths[0]
    assert count == 1 or found[-1] == widths[-1]


def cost(width: int) -> float:
    """Of a kernel with tiles of 16, a dear one beside it, and one for few channels."""
    kernel = BLOCKED.at(width)
    return (1.0 * -(-width // 16) * 16, 10.0 + 2.0 * width, 1.5 * width)[kernel]


def test_each_kernel_has_a_curve_of_its_own() -> None:
    widths = [width for width in range(32, 65) if width % 4 == 0]
    stair = find_stair(widths, [cost(width) for width in widths], 0.002, 4)
    assert stair is not None
    assert stair.period == 16
    points = {width: cost(width) for width in (2, 15, 16, 17, 48, 63, 64)}
    curve = Curve(points, stair, BLOCKED)
    for width in range(1, 65):
        assert curve.at(width) == pytest.approx(cost(width)), width


LAYER = PricedLayer(
    name="conv", operator="Conv", group_in="a", group_out="b", width_in=64, width_out=64
)


def test_a_branch_is_bilinear_between_its_pairs() -> None:
    def dear(a: int, b: int) -> float:
        return 3.0 + 0.5 * a + 0.02 * a * b  # a matrix of the inputs, times the weights

    ins, outs = (17, 41, 63), (4, 34, 64)
    costs = tuple(tuple(dear(a, b) for b in outs) for a in ins)
    branch = Branch(layer="conv", kernels=(1, 0), ins=ins, outs=outs, costs=costs,
                    stairs=(STRAIGHT, STRAIGHT))  # fmt: skip
    prices = BranchPrices([branch], {("conv", "in"): BLOCKED})
    assert prices.price(LAYER, 48, 20) is None
    for a, b in ((17, 4), (17, 20), (30, 64), (63, 1), (50, 50)):
        found = prices.price(LAYER, a, b)
        assert found is not None
        assert found[0] == pytest.approx(dear(a, b))
    bases = [prices.price(LAYER, a, b)[1] for a, b in ((17, 4), (17, 5), (18, 5))]  # type: ignore[index]
    assert bases == ["measured", "interpolated", "estimated"]


def test_one_group_on_both_sides_has_a_curve_for_each_kernel() -> None:
    """The other kernel is far dearer than any offered width: no line between those leads there."""
    layer = LAYER.model_copy(update={"group_in": "a", "group_out": "a"})
    rule = Kernels(multiple=4)
    swept = {16: 2.0, 64: 8.0, 17: 34.0, 63: 126.0}
    table = CostTable(
        device="d", kind="measured", unit="us", dense_cost=8.0, layers=(layer,),
        widths={"a": (16, 64)}, probes=0, environment=Environment(facts={}, comparable=()),
        prices=tuple(
            Price(layer="conv", width_in=w, width_out=w, cost=c, origin="measured")
            for w, c in ((16, 2.0), (64, 7.9))
        ),
        swept=tuple(
            Price(layer="conv", width_in=w, width_out=w, cost=c, origin="measured")
            for w, c in swept.items()
        ),
        stairs=(LayerStair(layer="conv", side="both", stair=STRAIGHT, kernels=rule),),
    )  # fmt: skip
    predict = Predictor(table)
    assert predict.price(layer, 41, 41) == (pytest.approx(82.0), "interpolated")
    assert predict.price(layer, 63, 63) == (126.0, "measured")
    assert predict.price(layer, 64, 64) == (7.9, "measured")
