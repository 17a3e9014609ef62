"""The exact allocator against brute force, and its promises."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.allocation.exact import cheapest, solve
from edgeprune.allocation.problem import (
    LayerTerm,
    Problem,
    Resource,
    build_problem,
    monotone,
)
from edgeprune.errors import InternalCheckError
from edgeprune.records import SensitivityCurve


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to four groups with up to four widths; chains, forks and depthwise layers."""
    count = draw(st.integers(1, 4))
    sizes = [draw(st.integers(1, 4)) for _ in range(count)]
    number = st.floats(0.1, 9.0, allow_nan=False)
    losses = tuple(
        (*tuple(sorted((draw(number) for _ in range(size - 1)), reverse=True)), 0.0)
        for size in sizes
    )
    widths = tuple(tuple(8 * (k + 1) for k in range(size)) for size in sizes)
    names = tuple(f"g{g}" for g in range(count))
    layers = draw(terms(sizes))
    return Problem(names, widths, losses, layers, draw(st.floats(0.0, 3.0)))


@st.composite
def terms(draw: st.DrawFn, sizes: list[int]) -> tuple[LayerTerm, ...]:
    """Up to five terms between groups of these sizes."""
    count, number = len(sizes), st.floats(0.1, 9.0, allow_nan=False)
    layers = []
    for index in range(draw(st.integers(1, 5))):
        ends = [draw(st.sampled_from([None, *range(count)])) for _ in range(2)]
        if ends == [None, None]:
            ends[1] = 0
        shape = [1 if end is None else sizes[end] for end in ends]
        if ends[0] == ends[1] and ends[0] is not None:
            costs = np.diag([draw(number) for _ in range(shape[0])])
        else:
            costs = np.array([[draw(number) for _ in range(shape[1])] for _ in range(shape[0])])
        layers.append(LayerTerm(f"layer{index}", ends[0], ends[1], costs))
    return tuple(layers)


def choices(problem: Problem) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(w)) for w in problem.widths)))


@given(problem=problems(), share=st.floats(0.0, 1.1))
@settings(max_examples=150)
def test_solution_is_as_good_as_brute_force(problem: Problem, share: float) -> None:
    costs = [problem.cost(choice) for choice in choices(problem)]
    budget = min(costs) + share * (max(costs) - min(costs)) + 1e-9
    best = min(problem.loss(c) for c in choices(problem) if problem.cost(c) <= budget)
    solution = solve(problem, budget, gap=0.0)
    assert solution is not None
    assert solution.cost == pytest.approx(problem.cost(solution.choice))
    assert solution.cost <= budget * (1 + 1e-6)
    assert solution.loss == pytest.approx(best, rel=1e-6, abs=1e-6)


@given(problem=problems(), share=st.floats(0.0, 1.1), data=st.data())
@settings(max_examples=120)
def test_further_limits_are_kept_as_by_brute_force(
    problem: Problem, share: float, data: st.DataObject
) -> None:
    sizes = [len(widths) for widths in problem.widths]
    rows = []
    for name in ("macs", "ram", "ram"):
        row = Resource(name, "MACs", 0.0, data.draw(terms(sizes)), data.draw(st.floats(0.0, 3.0)))
        values = [row.used(choice) for choice in choices(problem)]
        limit = min(values) + data.draw(st.floats(0.0, 1.0)) * (max(values) - min(values)) + 1e-6
        rows.append(dataclasses.replace(row, limit=limit))
    problem = dataclasses.replace(problem, resources=tuple(rows))
    costs = [problem.cost(choice) for choice in choices(problem)]
    budget = min(costs) + share * (max(costs) - min(costs)) + 1e-9
    allowed = [
        c
        for c in choices(problem)
        if problem.cost(c) <= budget and all(row.used(c) <= row.limit for row in rows)
    ]
    solution = solve(problem, budget, gap=0.0)
    if not allowed:
        assert solution is None
        return
    assert solution is not None
    assert solution.loss == pytest.approx(min(map(problem.loss, allowed)), rel=1e-6, abs=1e-6)
    used = problem.used(solution.choice)
    assert used["ram"] == max(row.used(solution.choice) for row in rows[1:])
    assert all(used[row.name] <= row.limit * (1 + 1e-6) for row in rows[:1])


@given(problem=problems())
@settings(max_examples=60)
def test_cheapest_is_the_smallest_cost(problem: Problem) -> None:
    smallest = min(problem.cost(choice) for choice in choices(problem))
    found = cheapest(problem)
    assert found is not None
    assert found.cost == pytest.approx(smallest, rel=1e-6)


@given(problem=problems())
@settings(max_examples=40)
def test_nothing_below_the_smallest_cost(problem: Problem) -> None:
    smallest = min(problem.cost(choice) for choice in choices(problem))
    assert solve(problem, 0.9 * smallest - 0.01) is None


@given(problem=problems(), share=st.floats(0.2, 1.0))
@settings(max_examples=60)
def test_excluded_choices_and_lower_bounds_are_respected(problem: Problem, share: float) -> None:
    costs = sorted(problem.cost(choice) for choice in choices(problem))
    budget, lower = costs[-1] + 1e-6, share * costs[-1]
    without: tuple[tuple[int, ...], ...] = ()
    for _ in range(3):
        solution = solve(problem, budget, lower=lower, without=without, gap=0.0)
        left = [
            problem.loss(c)
            for c in choices(problem)
            if c not in without and problem.cost(c) >= lower
        ]
        if solution is None:
            assert not left
            return
        assert solution.choice not in without
        assert solution.cost >= lower * (1 - 1e-6)
        assert solution.loss == pytest.approx(min(left), rel=1e-5, abs=1e-5)
        without = (*without, solution.choice)


def test_same_problem_same_choice() -> None:
    random = np.random.default_rng(0)
    widths = tuple(tuple(range(8, 136, 8)) for _ in range(6))
    losses = tuple((*tuple(sorted(random.uniform(0, 1, 15), reverse=True)), 0.0) for _ in range(6))
    layers = tuple(
        LayerTerm(
            f"l{g}", g, g + 1, np.outer(range(1, 17), range(1, 17)) + random.uniform(0, 1, (16, 16))
        )
        for g in range(5)
    )
    problem = Problem(tuple("abcdef"), widths, losses, layers, 1.0)
    dense = problem.cost((15,) * 6)
    first, second = solve(problem, 0.5 * dense), solve(problem, 0.5 * dense)
    assert first is not None
    assert first == second
    assert first.gap <= 1e-4


def test_huge_losses_give_the_choice_of_small_ones() -> None:
    losses = ((3.0, 1.0, 0.0), (2.0, 1.5, 0.0))
    layers = tuple(LayerTerm(f"l{g}", None, g, np.array([[1.0, 2.0, 4.0]])) for g in (0, 1))
    problem = Problem(("a", "b"), ((8, 16, 32),) * 2, losses, layers, 0.0)
    huge = replace(problem, losses=tuple(tuple(1e30 * x for x in group) for group in losses))
    small, large = solve(problem, 6.0), solve(huge, 6.0)
    assert small is not None
    assert large is not None
    assert large.choice == small.choice == (1, 2)
    assert large.loss == pytest.approx(1e30)


def test_monotone_never_rises_with_width() -> None:
    assert monotone((0.5, 0.2, 0.3, -0.1, 0.0)) == (0.5, 0.3, 0.3, 0.0, 0.0)
    assert monotone((-0.4, 0.0)) == (0.0, 0.0)
    with pytest.raises(InternalCheckError, match="not a number"):  # it would count as free
        monotone((math.nan, 0.0))


@pytest.fixture
def tiny_curves() -> dict[str, SensitivityCurve]:
    return {
        "g": SensitivityCurve(group="g", criterion="l2", widths=(8, 16), increases=(0.4, 0.0)),
    }


@given(problems(), st.integers(0, 255), st.floats(1.0, 40.0))
@settings(max_examples=60, deadline=None)
def test_a_choice_may_be_asked_to_differ_in_two_groups(
    problem: Problem, pick: int, budget: float
) -> None:
    base = choices(problem)[pick % len(choices(problem))]
    found = solve(problem, budget, unlike=base, gap=0.0)
    others = [
        problem.loss(c)
        for c in choices(problem)
        if sum(a != b for a, b in zip(c, base, strict=True)) >= 2 and problem.cost(c) <= budget
    ]
    assert (found is None) == (not others)
    if found is not None:
        assert found.loss == pytest.approx(min(others), abs=1e-6)
        assert sum(a != b for a, b in zip(found.choice, base, strict=True)) >= 2


def test_a_group_without_its_curve_is_an_internal_error(
    tiny_curves: dict[str, SensitivityCurve],
) -> None:
    from edgeprune.records import CostTable, Environment, Price, PricedLayer

    layer = PricedLayer(
        name="l", operator="Conv", group_in=None, group_out="g", width_in=3, width_out=16
    )
    prices = tuple(
        Price(layer="l", width_in=3, width_out=w, cost=c, origin="measured")
        for w, c in ((8, 2.0), (16, 5.0))
    )
    table = CostTable(
        device="d", kind="measured", unit="us", dense_cost=10.0, scale=2.0, layers=(layer,),
        widths={"g": (8, 16)}, prices=prices, probes=2,
        environment=Environment(facts={}, comparable=()),
    )  # fmt: skip
    problem = build_problem(table, tiny_curves)
    assert problem.cost((0,)) == pytest.approx(4.0)
    assert problem.cost((1,)) == pytest.approx(10.0)
    assert problem.losses == ((0.4, 0.0),)
    with pytest.raises(InternalCheckError, match="g has no loss curve"):
        build_problem(table, {})
    shifted = tiny_curves["g"].model_copy(update={"widths": (4, 16)})
    with pytest.raises(InternalCheckError):
        build_problem(table, {"g": shifted})
