"""The closed loop against a device whose true cost differs from the prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from edgeprune.allocation.closed_loop import BESIDE, FULL_USE, ROUNDS, Measured, close_the_loop
from edgeprune.allocation.exact import solve
from edgeprune.allocation.problem import LayerTerm, Problem, Resource
from edgeprune.budget import keeps_to
from edgeprune.errors import BudgetError
from edgeprune.records import PlannedGroup, WidthPlan

WIDTHS = tuple(range(12, 132, 12))


def a_problem(seed: int) -> Problem:
    random = np.random.default_rng(seed)
    count = len(WIDTHS)
    groups = 4
    losses = tuple(
        (*tuple(sorted(random.uniform(0, 1, count - 1), reverse=True)), 0.0) for _ in range(groups)
    )
    grid = np.outer(WIDTHS, WIDTHS) / 1000
    layers = tuple(
        LayerTerm(f"l{g}", g, g + 1, grid * random.uniform(0.5, 2.0) + 0.5)
        for g in range(groups - 1)
    )
    return Problem(tuple(f"g{g}" for g in range(groups)), (WIDTHS,) * groups, losses, layers, 2.0)


def loop(
    problem: Problem, budget: float, truth: Callable[[Mapping[str, int]], float]
) -> tuple[WidthPlan, list[dict[str, int]]]:
    measured: list[dict[str, int]] = []

    def kept(widths: Mapping[str, int]) -> dict[str, PlannedGroup]:
        return {
            name: PlannedGroup(before=WIDTHS[-1], after=w, kept=tuple(range(w)), criterion="l2")
            for name, w in widths.items()
        }

    def measure(groups: dict[str, PlannedGroup]) -> Measured:
        widths = {name: group.after for name, group in groups.items()}
        measured.append(widths)
        cost = truth(widths)
        return Measured(cost, cost, cost)

    dense = problem.cost((len(WIDTHS) - 1,) * 4)
    plan = close_the_loop(problem, budget, kept=kept, measure=measure, unit="us", dense_cost=dense)
    return plan, measured


def cost_of(problem: Problem, widths: Mapping[str, int]) -> float:
    return problem.cost([WIDTHS.index(widths[name]) for name in problem.names])


def loss_of(problem: Problem, widths: Mapping[str, int]) -> float:
    return problem.loss([WIDTHS.index(widths[name]) for name in problem.names])


@pytest.mark.parametrize("bias", [0.85, 1.0, 1.2])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_budget_is_met_and_used_though_prices_are_wrong(bias: float, share: float) -> None:
    for seed in range(3):
        problem = a_problem(seed)
        budget = share * problem.cost((len(WIDTHS) - 1,) * 4)

        def truth(widths: Mapping[str, int], problem: Problem = problem) -> float:
            return bias * cost_of(problem, widths)

        plan, measured = loop(problem, budget, truth)
        assert FULL_USE * budget <= plan.corrected <= budget
        assert len(plan.rounds) <= ROUNDS
        assert len(measured) == sum(1 + len(entry.beside) for entry in plan.rounds)
        assert not plan.rounds[0].beside
        inside = [
            one.widths
            for entry in plan.rounds
            for one in (entry, *entry.beside)
            if FULL_USE * budget <= one.measured <= budget
        ]
        least = min(inside, key=lambda widths: loss_of(problem, widths))
        assert least == {name: g.after for name, g in plan.groups.items()}


def test_counts_need_no_reserve_and_the_gap_is_of_the_whole_budget() -> None:
    """Prices are right, so the plan of least loss up to 99.8 % is found, not only up to 99 %."""
    better = 0
    for seed in range(3):
        problem = a_problem(seed)
        budget = 0.5 * problem.cost((len(WIDTHS) - 1,) * 4)
        plan, _ = loop(problem, budget, lambda widths, p=problem: cost_of(p, widths))
        edge = solve(problem, 0.998 * budget, lower=FULL_USE * budget)
        bound = solve(problem, budget, gap=0.0)
        assert edge is not None
        assert bound is not None
        assert plan.loss == pytest.approx(edge.loss, rel=1e-3)
        assert plan.gap == pytest.approx(1 - bound.loss / plan.loss, abs=1e-3)
        aimed = solve(problem, 0.99 * budget, lower=0.978 * budget)
        better += aimed is None or edge.loss < aimed.loss
    assert better


def test_a_plan_over_a_further_limit_is_no_plan_to_improve_on() -> None:
    """Of two plans of equal cost the better one takes more RAM than its row says: the other is."""
    layers = tuple(LayerTerm(n, None, g, np.array([[50.0, 100.0]])) for g, n in enumerate("ab"))
    row = Resource("ram", "bytes", 20.0, (LayerTerm("t", None, 0, np.array([[10.0, 19.0]])),))
    losses = ((0.5, 0.0), (0.3, 0.0))
    problem = Problem(("x", "y"), ((60, 120),) * 2, losses, layers, 0.0, (row,))

    def kept(widths: Mapping[str, int]) -> dict[str, PlannedGroup]:
        return {
            name: PlannedGroup(before=120, after=w, kept=tuple(range(w)), criterion="l2")
            for name, w in widths.items()
        }

    def measure(groups: dict[str, PlannedGroup]) -> Measured:
        choice = [int(group.after == 120) for group in groups.values()]
        cost = problem.cost(choice)
        return Measured(cost, cost, cost, {"ram": (16.0, 25.0)[choice[0]]})

    plan = close_the_loop(problem, 152.0, kept=kept, measure=measure, unit="us", dense_cost=200.0)
    assert {name: group.after for name, group in plan.groups.items()} == {"x": 60, "y": 120}
    assert [(entry.widths["x"], entry.measured) for entry in plan.rounds] == [(120, 150), (60, 150)]


def test_where_another_limit_binds_the_plan_of_least_loss_is_taken() -> None:
    for seed in range(4):
        problem = a_problem(seed)
        dense = problem.cost((len(WIDTHS) - 1,) * 4)
        terms = tuple(
            LayerTerm(f"r{g}", g, None, np.array(WIDTHS, float)[:, None] ** 2) for g in range(4)
        )
        limit = 0.31 * 4 * WIDTHS[-1] ** 2  # no widths use it in full
        room = Resource("parameters", "count", limit, terms, 0.0)
        problem = replace(problem, resources=(room,))
        plan, measured = loop(problem, dense, lambda w, p=problem: cost_of(p, w))
        best = solve(problem, dense)
        assert best is not None
        assert plan.loss == pytest.approx(best.loss)
        assert plan.gap == pytest.approx(0.0, abs=1e-4)
        assert plan.loss == min(loss_of(problem, widths) for widths in measured)


def test_an_additive_part_that_no_price_shows_is_corrected() -> None:
    problem = a_problem(3)
    hidden = 0.2 * problem.cost((len(WIDTHS) - 1,) * 4)
    budget = 0.6 * problem.cost((len(WIDTHS) - 1,) * 4)
    plan, _ = loop(problem, budget, lambda widths: hidden + cost_of(problem, widths))
    assert FULL_USE * budget <= plan.corrected <= budget
    assert plan.predicted_error == pytest.approx(
        plan.rounds[0].predicted / plan.rounds[0].measured - 1
    )


def test_no_plan_is_measured_twice_and_rounds_are_bounded() -> None:
    problem = a_problem(1)
    random = np.random.default_rng(0)
    budget = 0.5 * problem.cost((len(WIDTHS) - 1,) * 4)

    def erratic(widths: Mapping[str, int]) -> float:
        return cost_of(problem, widths) * float(random.uniform(0.6, 0.9))

    plan, measured = loop(problem, budget, erratic)
    assert len(plan.rounds) <= ROUNDS
    assert len(measured) <= 1 + BESIDE * (ROUNDS - 1)
    assert len({tuple(sorted(m.items())) for m in measured}) == len(measured)
    assert plan.corrected <= budget


def test_after_a_miss_a_round_measures_several_plans_at_the_same_prices() -> None:
    """A device that lets no plan into the window: all rounds are used, none looks at twins."""
    problem = a_problem(1)
    budget = 0.5 * problem.cost((len(WIDTHS) - 1,) * 4)
    plan, measured = loop(
        problem, budget, lambda widths: 0.93 * budget + 1e-6 * sum(widths.values())
    )
    assert [len(entry.beside) for entry in plan.rounds] == [0, *[BESIDE - 1] * (ROUNDS - 1)]
    assert plan.held_by == ("the offered widths",)
    for start in range(1, len(measured), BESIDE):
        first, *others = measured[start : start + BESIDE]
        for other in others:
            assert sum(first[name] != other[name] for name in problem.names) >= 2


def test_an_impossible_budget_names_the_smallest_cost() -> None:
    problem = a_problem(0)
    smallest = problem.cost((0,) * 4)
    with pytest.raises(BudgetError) as caught:
        loop(problem, 0.9 * smallest, lambda widths: cost_of(problem, widths))
    assert caught.value.exit_code == 1
    assert f"{smallest:.4g}" in caught.value.what


def test_a_budget_that_only_measuring_shows_impossible() -> None:
    problem = a_problem(0)
    budget = 0.2 * problem.cost((len(WIDTHS) - 1,) * 4)
    with pytest.raises(BudgetError, match="found"):
        loop(problem, budget, lambda widths: budget + cost_of(problem, widths))


@pytest.mark.parametrize("truth", [0.94, 0.9601, 0.97, 1.0])
def test_a_budget_just_below_all_predictions_is_measured_before_it_is_refused(truth: float) -> None:
    """The cheapest plan is predicted at 104 % of the budget, and costs `truth` of that."""
    problem = a_problem(0)
    narrowest = dict.fromkeys(problem.names, WIDTHS[0])
    budget = problem.cost((0,) * 4) / 1.04
    seen: list[Mapping[str, int]] = []

    def found(widths: Mapping[str, int]) -> float:
        seen.append(widths)
        return truth * cost_of(problem, widths)

    if 1.04 * truth <= 1:
        plan, _ = loop(problem, budget, found)
        assert plan.corrected <= budget
        assert plan.predicted == pytest.approx(1.04 * budget)
    else:
        with pytest.raises(BudgetError, match="found") as caught:
            loop(problem, budget, found)
        assert f"{truth * 1.04 * budget:.4g}" in caught.value.what
    assert seen[0] == narrowest


@pytest.mark.parametrize("slack", [1.0, 1.005, 1.02])
def test_a_budget_that_only_the_cheapest_plan_meets_beside_another_limit(slack: float) -> None:
    """The solver is asked for 99 % of the budget first, which nothing costs."""
    free = a_problem(0)
    ram = np.array([WIDTHS], dtype=float)
    rows = (Resource("ram", "bytes", 300.0, (LayerTerm("t", None, 0, ram),), 0.0),)
    problem = replace(free, resources=rows)
    budget = slack * problem.cost((0,) * 4)
    plan, _ = loop(problem, budget, lambda widths: cost_of(problem, widths))
    assert {name: g.after for name, g in plan.groups.items()} == dict.fromkeys(
        problem.names, WIDTHS[0]
    )
    assert plan.corrected <= budget


@pytest.mark.parametrize(("over", "fits"), [(5e-10, True), (1e-8, False)])
def test_a_plan_that_costs_the_budget_within_rounding_is_within_it(over: float, fits: bool) -> None:
    problem = a_problem(0)
    budget = 0.5 * problem.cost((len(WIDTHS) - 1,) * 4)
    if fits:
        plan, _ = loop(problem, budget, lambda _: budget * (1 + over))
        assert plan.corrected == budget * (1 + over)
        assert keeps_to(plan.corrected, plan.budget)
    else:
        with pytest.raises(BudgetError, match="cannot be reached"):
            loop(problem, budget, lambda _: budget * (1 + over))


def one_group(
    predicted: list[float], ram: list[float] | None = None, limit: float = 20.0
) -> Problem:
    """A group of as many widths, and RAM of each."""
    widths = tuple(range(1, len(predicted) + 1))
    losses = tuple(float(len(predicted) - w) for w in widths)
    row = (
        Resource("ram", "bytes", limit, (LayerTerm("t", None, 0, np.array([ram])),))
        if ram
        else None
    )
    layers = (LayerTerm("l", None, 0, np.array([predicted])),)
    return Problem(("g",), (widths,), (losses,), layers, 0.0, (row,) if row else ())


def closed(
    problem: Problem,
    truth: list[float],
    ram: list[float] | None = None,
    told: list[str] | None = None,
) -> tuple[WidthPlan, list[int]]:
    """Close the loop for a budget of 100; return the plan and the widths measured."""
    seen: list[int] = []

    def kept(widths: Mapping[str, int]) -> dict[str, PlannedGroup]:
        before, after = len(truth), widths["g"]
        planned = PlannedGroup(before=before, after=after, kept=tuple(range(after)), criterion="l2")
        return {"g": planned}

    def measure(groups: dict[str, PlannedGroup]) -> Measured:
        seen.append(groups["g"].after)
        at = groups["g"].after - 1
        return Measured(truth[at], truth[at], truth[at], {"ram": ram[at]} if ram else {})

    plan = close_the_loop(
        problem, 100.0, kept=kept, measure=measure, unit="us", dense_cost=200.0, explained=False,
        note=(told if told is not None else []).append,
    )  # fmt: skip
    return plan, seen


def test_of_plans_predicted_alike_the_next_is_measured_too() -> None:
    plan, seen = closed(one_group([104.0, 104.0, 200.0]), [102.0, 95.0, 200.0])
    assert plan.corrected == 95.0
    assert sorted(seen) == [1, 2]


def test_a_plan_over_a_further_limit_does_not_end_the_search_for_a_cheaper_one() -> None:
    problem = one_group([98.0, 103.0, 200.0], [19.0, 10.0, 30.0])
    plan, seen = closed(problem, [98.0, 97.0, 200.0], [25.0, 16.0, 36.0])
    assert plan.corrected == 97.0
    assert seen == [1, 2]


def test_the_smallest_cost_that_is_told_is_that_of_a_plan_within_the_other_limits() -> None:
    problem = one_group([98.6, 98.0, 200.0], [10.0, 19.0, 30.0])
    with pytest.raises(BudgetError, match="smallest reachable cost is 101 µs") as caught:
        closed(problem, [101.0, 98.0, 200.0], [10.0, 25.0, 36.0])
    assert "at least 52%" in caught.value.hint  # of 200


def test_a_plan_that_is_hopeless_at_corrected_prices_is_not_measured() -> None:
    """All cost more than predicted: the cheapest is measured, for the message, and no more."""
    told: list[str] = []
    problem = one_group([60.0, 70.0, 98.0, 200.0])
    with pytest.raises(BudgetError, match="smallest reachable cost is 150 µs"):
        closed(problem, [150.0, 155.0, 170.0, 300.0], told=told)
    assert len(told) == 2
