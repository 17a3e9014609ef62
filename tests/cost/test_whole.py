"""A cost table fitted to whole plans: worked out by hand, and on devices whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.cost.prediction import Predictor
from edgeprune.cost.table import predicted_cost
from edgeprune.cost.whole import Without, fit_to_whole_plans, fitted, plans_beside, whole_plans
from edgeprune.records import (
    CostTable,
    Kernels,
    LayerStair,
    Price,
    PricedLayer,
    Stair,
    WholePlan,
)
from tests import factories

WIDTHS = {"0": (4, 8, 16), "2": (8, 16, 32)}


def shares(table: CostTable, constant: float, cold: float, error: float = 0.0) -> list[WholePlan]:
    """Plans as a device with these shares of the dense cost would measure them."""
    bare = table.model_copy(update={"constant": 0.0, "scale": 1.0, "cold": 0.0})
    dense = {group: widths[-1] for group, widths in table.widths.items()}
    whole, found = predicted_cost(bare, dense), []
    weights = sum(layer.weights for layer in table.layers)
    for widths in whole_plans(table.widths):
        p = predicted_cost(bare, widths) / whole
        w = sum(one.weights_at(*one.widths_of(widths)) for one in table.layers) / weights
        share = constant + (1 - constant - cold) * p + cold * w + error
        found.append(WholePlan(widths=widths, share=share, low=share, high=share))
    return found


@pytest.fixture
def table() -> CostTable:
    ends = {"first": (None, "0", 1, 16), "second": ("0", "2", 16, 32)}
    layers, prices = [], []
    for name, (group_in, group_out, width_in, width_out) in ends.items():
        layers.append(
            PricedLayer(
                name=name, operator="Conv", group_in=group_in, group_out=group_out,
                width_in=width_in, width_out=width_out, weights=9 * width_in * width_out,
            )
        )  # fmt: skip
        prices += [
            Price(layer=name, width_in=i, width_out=o, cost=10 + i + o + i * o, origin="measured")
            for i in (WIDTHS[group_in] if group_in else (1,))
            for o in WIDTHS[group_out]
        ]
    whole = (10 + 17 + 16) + (10 + 48 + 512)
    return factories.a_table(
        widths=WIDTHS, layers=tuple(layers), prices=tuple(prices), scale=1.0,
        dense_cost=whole / 0.98, constant=0.02 * whole / 0.98,
    )  # fmt: skip


def test_plans_have_about_the_same_share_of_each_group() -> None:
    offered = {"a": (8, 16, 24, 32), "b": (16, 32), "c": (64,)}
    assert whole_plans(offered) == [
        {"a": 24, "b": 32, "c": 64},
        {"a": 24, "b": 16, "c": 64},
        {"a": 16, "b": 16, "c": 64},
        {"a": 8, "b": 16, "c": 64},
    ]
    assert whole_plans({"c": (64,)}) == []


@pytest.mark.parametrize(("constant", "cold"), [(0.02, 0.0), (0.03, 0.0), (0.02, 0.06), (0.0, 0.0)])
def test_the_dense_model_is_met_and_plans_nearly(table, constant: float, cold: float) -> None:
    measured = shares(table, constant, cold)
    found = fitted(table, measured, {})
    dense = {group: widths[-1] for group, widths in WIDTHS.items()}
    assert predicted_cost(found, dense) == pytest.approx(table.dense_cost, rel=1e-12)
    for plan in measured:
        predicted = predicted_cost(found, plan.widths) / table.dense_cost
        assert predicted == pytest.approx(plan.share, rel=0.02)
    assert found.whole == tuple(measured)
    assert found.constant >= 0.0
    assert found.cold >= 0.0


def test_what_was_likely_before_stays_where_plans_agree_with_it(table) -> None:
    found = fitted(table, shares(table, 0.02, 0.0), {})
    assert found.constant == pytest.approx(0.02 * table.dense_cost, rel=1e-9)
    assert found.cold == pytest.approx(0.0, abs=1e-12)


def test_plans_that_cost_more_than_their_prices_raise_the_constant(table) -> None:
    found = fitted(table, shares(table, 0.02, 0.0, error=0.01), {})
    assert found.constant > 0.02 * table.dense_cost
    assert found.cold == 0.0


@pytest.mark.parametrize("between", [0.0, 0.05, 0.2])
def test_plans_without_layers_tell_the_way_between_them(table, between: float) -> None:
    dense = {group: widths[-1] for group, widths in WIDTHS.items()}
    bare = table.model_copy(update={"constant": 0.0})
    whole = predicted_cost(bare, dense)
    measured = [
        plan.model_copy(update={"share": plan.share + between * (1 - p)})
        for plan in shares(table, 0.02, 0.0)
        for p in [predicted_cost(bare, plan.widths) / whole]
    ]
    for gone in ("first", "second"):
        p = Predictor(bare)(dense, (gone,)).cost / whole
        share = 0.02 + (0.98 - between) * p + between / 2
        measured.append(WholePlan(widths=dense, gone=(gone,), share=share, low=share, high=share))
    found = fitted(table, measured, {}, empty=0.1 * table.dense_cost)
    assert found.beside == pytest.approx(between * table.dense_cost / 2, rel=0.02, abs=0.1)
    assert found.constant == pytest.approx(0.02 * table.dense_cost, rel=0.1)
    assert predicted_cost(found, dense) == pytest.approx(table.dense_cost, rel=1e-12)
    for plan in measured:
        predicted = Predictor(found)(plan.widths, plan.gone).cost / table.dense_cost
        assert predicted == pytest.approx(plan.share, rel=0.01)
    assert fitted(table, measured, {}).beside == 0.0  # a device whose nodes cost nothing
    assert fitted(table, measured[:-2], {}, empty=0.1 * table.dense_cost).beside == 0.0


def test_an_uncertain_measurement_counts_less(table) -> None:
    sure = shares(table, 0.02, 0.0, error=0.01)
    vague = [plan.model_copy(update={"low": 0.0, "high": 2 * plan.share}) for plan in sure]
    assert fitted(table, vague, {}).constant < fitted(table, sure, {}).constant


@pytest.mark.parametrize("cold", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_the_profile_tells_what_weights_cost(table, cold: float, speed: float) -> None:
    many = [
        one.model_copy(update={"weights": n})
        for one, n in zip(table.layers, (4000, 500), strict=True)
    ]
    table = table.model_copy(update={"layers": tuple(many)})
    measured = shares(table, 0.02, cold)
    weights = {one.name: one.weights for one in table.layers}
    alone = {one.name: Predictor(table).price(one, *one.widths)[0] for one in table.layers}
    layers = {
        name: speed * ((1 - cold) * alone[name] / sum(alone.values())
        + cold * weights[name] / sum(weights.values()))
        for name in alone
    }  # fmt: skip
    found = fitted(table, measured, {**layers, "no layer": 1.0})
    assert found.cold * sum(weights.values()) / table.dense_cost == pytest.approx(cold, rel=0.1)
    for plan in measured:
        predicted = predicted_cost(found, plan.widths) / table.dense_cost
        assert predicted == pytest.approx(plan.share, rel=0.005)


KERNELS = Kernels(multiple=8)


@pytest.fixture
def mixed(table) -> CostTable:
    """The same layers where other kernels run widths that are no multiples of 8."""
    ends = {"first": ("out",), "second": ("in", "out")}
    offered = {"0": (8, 16), "2": (8, 16, 32)}
    return table.model_copy(
        update={
            "widths": offered,
            "prices": tuple(p for p in table.prices if p.width_in % 8 == 0 or p.width_in == 1),
            "swept": tuple(
                Price(
                    layer=one.name, width_in=a, width_out=b, cost=10 + a + b + a * b,
                    origin="measured",
                )
                for one in table.layers
                for side in ends[one.name]
                for w in range(1, (one.width_in if side == "in" else one.width_out) + 1)
                for a, b in [one.at(side, w)]
            ),
            "stairs": tuple(
                LayerStair(
                    layer=name, side=side, stair=Stair(period=1, shares=(0.0,)), kernels=KERNELS
                )
                for name, sides in ends.items()
                for side in sides
            ),
        }
    )  # fmt: skip


def test_plans_beside_are_run_by_other_kernels(mixed, table) -> None:
    assert plans_beside(table, {}) == []  # one kernel runs all widths
    assert plans_beside(mixed, {}) == [{"0": 12, "2": 25}, {"0": 8, "2": 14}]
    assert plans_beside(mixed, {"0": 1, "2": 4}) == [{"0": 12, "2": 20}, {"0": 8, "2": 12}]
    assert plans_beside(mixed, {"0": 8, "2": 8}) == []


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
def test_prices_of_other_kernels_have_a_factor_of_their_own(mixed, factor: float) -> None:
    true = mixed.model_copy(update={"other": factor})
    plans = [*whole_plans(mixed.widths), *plans_beside(mixed, {})]
    measured = []
    for widths in plans:
        share = Predictor(true)(widths).cost / true.dense_cost
        measured.append(WholePlan(widths=widths, share=share, low=share, high=share))
    found = fitted(mixed, measured, {})
    assert found.other == pytest.approx(factor, abs=0.2 * abs(factor - 1) + 1e-9)
    assert found.whole == tuple(measured)
    offered = fitted(mixed, measured[: len(whole_plans(mixed.widths))], {})
    assert offered.other == pytest.approx(1.0)
    assert (found.constant, found.scale, found.cold) == (
        offered.constant, offered.scale, offered.cold,
    )  # fmt: skip
    dense = {group: widths[-1] for group, widths in WIDTHS.items()}
    assert predicted_cost(found, dense) == pytest.approx(mixed.dense_cost, rel=1e-12)


def test_without_plans_or_weights_nothing_is_divided_by_zero(table) -> None:
    assert fitted(table, [], {}) is table
    layers = tuple(one.model_copy(update={"weights": 0}) for one in table.layers)
    bare = table.model_copy(update={"layers": layers})
    measured = [p.model_copy(update={"share": 0.9 * p.share}) for p in shares(table, 0.0, 0.0)]
    found = fitted(bare, measured, {})
    assert found.cold == 0.0
    dense = {group: widths[-1] for group, widths in WIDTHS.items()}
    assert predicted_cost(found, dense) == pytest.approx(table.dense_cost, rel=1e-12)


def test_cutting_and_measuring_of_whole_plans_are_told_apart(
    table, simulated, exported, groups_of
) -> None:
    told: list[tuple[str, int, int]] = []
    path, plans = exported("plain"), len(whole_plans(table.widths))

    def build(widths: dict[str, int], number: int) -> Path:
        return path

    fit_to_whole_plans(
        simulated(), table, path, build, {}, factories.a_profile(),
        report=lambda *what: told.append(what),
    )  # fmt: skip
    cut = [("whole plans cut", number, plans) for number in range(plans)]
    assert told[:plans] == cut
    assert {what for what, _, _ in told[plans:]} == {"whole plans settled"}
    assert told[-1] == ("whole plans settled", plans, plans)


def test_models_without_branches_are_measured_as_well(table, simulated, exported) -> None:
    found = fit_to_whole_plans(
        simulated(), table, exported("residual"), lambda widths, number: exported("residual"), {},
        factories.a_profile(), without=[Without(("second",), exported("plain"))],
    )  # fmt: skip
    *even, without = found.whole
    assert [plan.gone for plan in even] == [()] * len(whole_plans(table.widths))
    assert without.gone == ("second",)
    assert without.widths == {group: widths[-1] for group, widths in WIDTHS.items()}
    assert without.share < 0.9 < min(plan.share for plan in even)


def test_weights_of_layers_by_hand() -> None:
    ends = {"group_in": "a", "group_out": "b", "width_in": 8, "width_out": 16}
    lstm = PricedLayer(
        name="lstm", operator="LSTM", **ends,
        weights=4 * 16 * (8 + 16) + 8 * 16, hidden=4 * 16 * 16, single=8 * 16,
    )  # fmt: skip
    assert lstm.weights_at(8, 16) == lstm.weights
    assert lstm.weights_at(2, 16) == 4 * 16 * (2 + 16) + 8 * 16
    assert lstm.weights_at(8, 4) == 4 * 4 * (8 + 4) + 8 * 4
    convolution = PricedLayer(
        name="conv", operator="Conv", **ends, weights=9 * 8 * 16 + 16, single=16
    )
    assert convolution.weights_at(2, 4) == 9 * 2 * 4 + 4
