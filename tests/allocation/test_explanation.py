"""Savings, losses and shadow prices, by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from edgeprune.allocation.explanation import FULL, STEPS, explain
from edgeprune.allocation.narrowed import widening
from edgeprune.allocation.problem import LayerTerm, Problem, Resource
from edgeprune.records import ResidualBlock


def a_problem(*resources: Resource) -> Problem:
    """Two groups whose layers cost 50 or 100, and 49 or 100; losses 0.5 and 0.3."""
    layers = (
        LayerTerm("a", None, 0, np.array([[50.0, 100.0]])),
        LayerTerm("b", None, 1, np.array([[99.0, 100.0]])),
    )
    return Problem(("x", "y"), ((8, 16),) * 2, ((0.5, 0.0), (0.3, 0.0)), layers, 0.0, resources)


def test_what_groups_save_and_lose_and_what_the_next_unit_buys() -> None:
    found = explain(a_problem(), (0, 0), 149.5, "us")
    x, y = found.groups
    assert (x.group, x.before, x.after, x.saves, x.loses) == ("x", 16, 8, 50.0, 0.5)
    assert (y.saves, y.loses) == (1.0, 0.3)
    (step,) = found.steps
    assert (step.limit, step.unit) == ("budget", "us")
    assert step.added == pytest.approx(0.5)  # of the 1 us that a dense y takes, half is there
    assert step.wins == pytest.approx(0.3)
    assert step.price == pytest.approx(0.6)
    assert step.widths == {"y": (8, 16)}


def test_what_fits_into_the_unused_part_of_the_budget_is_not_counted() -> None:
    """A dense y fits into it; with 1 % more a dense z does as well."""
    assert explain(a_problem(), (0, 0), 150.5, "us").steps == ()
    layers = (*a_problem().layers, LayerTerm("c", None, 2, np.array([[10.0, 12.0]])))
    losses = ((0.5, 0.0), (0.3, 0.0), (0.2, 0.0))
    problem = Problem(("x", "y", "z"), ((8, 16),) * 3, losses, layers, 0.0)
    (step,) = explain(problem, (0, 0, 0), 160.5, "us").steps
    assert (step.added, step.wins) == (pytest.approx(1.5), pytest.approx(0.2))
    assert step.widths == {"y": (8, 16), "z": (8, 16)}


def test_nothing_is_bought_where_no_step_reaches_the_next_width() -> None:
    assert explain(a_problem(), (0, 1), 150.0, "us").steps == ()


def test_a_budget_that_is_not_used_has_no_price() -> None:
    assert explain(a_problem(), (0, 0), 160.0, "us").steps == ()


def test_the_price_of_a_further_limit() -> None:
    row = Resource("macs", "MACs", 10.0, (LayerTerm("t", None, 0, np.array([[10.0, 10.4]])),))
    found = explain(a_problem(row), (0, 1), 300.0, "us")
    (step,) = found.steps
    assert (step.limit, step.unit, step.added) == ("macs", "MACs", pytest.approx(0.4))
    assert step.wins == pytest.approx(0.5)
    assert step.widths == {"x": (8, 16)}


def test_dense_groups_save_and_lose_nothing() -> None:
    found = explain(a_problem(), (1, 1), 200.0, "us")
    assert [(g.saves, g.loses) for g in found.groups] == [(0.0, 0.0)] * 2
    assert found.steps == ()


def test_a_plan_that_measurements_chose_is_only_widened() -> None:
    """The sum prefers a dense x and a narrow y, at the same cost; only y or x may be widened."""
    layers = tuple(LayerTerm(n, None, g, np.array([[50.0, 100.0]])) for g, n in enumerate("ab"))
    problem = Problem(("x", "y"), ((8, 16),) * 2, ((0.5, 0.0), (0.3, 0.0)), layers, 0.0)
    assert explain(problem, (0, 1), 149.0, "us").steps[0].widths == {"x": (8, 16), "y": (16, 8)}
    assert explain(problem, (0, 1), 149.0, "us", found_best=True).steps == ()
    found = explain(a_problem(), (0, 0), 149.5, "us", found_best=True)
    assert found == explain(a_problem(), (0, 0), 149.5, "us")


def test_a_branch_that_the_plan_keeps_stays() -> None:
    """Widened, its groups start at what they have, which is no removal."""
    layers = (
        LayerTerm("a", None, 0, np.array([[0.0, 50.0, 51.0]])),
        LayerTerm("b", None, 1, np.array([[0.0, 49.0, 90.0]])),
    )
    block = ResidualBlock(last="b", layers=("a", "b"), groups=("x", "y"))
    losses = ((0.9, 0.3, 0.0), (0.9, 0.3, 0.0))
    problem = Problem(("x", "y"), ((0, 8, 16),) * 2, losses, layers, 0.0, (), (block,))
    (step,) = explain(problem, (1, 1), 99.0, "us", found_best=True).steps
    assert step.widths == {"x": (8, 16)}
    gone = widening(problem, (0, 0))
    assert (gone.widths, gone.blocks) == (problem.widths, problem.blocks)


def test_a_removed_branch_comes_back_whole() -> None:
    """A layer between two groups of it costs nothing as long as one of them is gone."""
    layers = (
        LayerTerm("a", None, 0, np.array([[0.0, 50.0, 60.0]])),
        LayerTerm("b", 0, 1, np.array([[0.0] * 3, [0.0, 10.0, 20.0], [0.0, 20.0, 40.0]])),
        LayerTerm("c", 1, 2, np.array([[0.0, 0.0], [5.0, 10.0], [10.0, 20.0]])),
    )
    block = ResidualBlock(last="b", layers=("a", "b"), groups=("x", "y"))
    losses = ((0.9, 0.3, 0.0), (0.0, 0.3, 0.0), (0.2, 0.0))
    widths = ((0, 8, 16), (0, 8, 16), (8, 16))
    problem = Problem(("x", "y", "z"), widths, losses, layers, 7.0, (), (block,))
    x, y, z = explain(problem, (0, 0, 0), 7.0, "us").groups
    assert (x.saves, x.loses) == (60.0 + 40.0 + 10.0, 0.9)
    assert (y.saves, y.loses) == (0.0, 0.0)
    assert (z.saves, z.loses) == (0.0, 0.2)
    x, y, z = explain(problem, (1, 1, 0), 65.0, "us").groups
    assert (x.saves, y.saves, z.saves) == (10.0 + 10.0, 10.0 + 5.0, 5.0)


@pytest.mark.parametrize("seed", range(12))
def test_shadow_prices_are_those_of_all_plans_looked_through(seed: int) -> None:
    """Of three groups of three widths and a second limit, every plan is priced by hand."""
    draw = np.random.default_rng(seed)
    stairs = np.outer([4.0, 8.0, 12.0], [4.0, 8.0, 12.0])
    layers = tuple(LayerTerm(str(g), g, g + 1, stairs * draw.uniform(1, 3)) for g in range(2))
    losses = tuple((*sorted(draw.uniform(0, 1, 2), reverse=True), 0.0) for _ in range(3))
    terms = tuple(replace(term, costs=term.costs * draw.uniform(1, 2)) for term in layers)
    room = 0.7 * sum(term.costs.max() for term in terms)
    row = Resource("macs", "MACs", room, terms)
    problem = Problem(("x", "y", "z"), ((4, 8, 12),) * 3, losses, layers, 5.0, (row,))
    budget = draw.uniform(0.4, 0.8) * problem.cost(problem.dense)
    plans = list(product(range(3), repeat=3))

    def least(budget: float, room: float) -> float:
        kept = [p for p in plans if problem.cost(p) <= budget and row.used(p) <= room]
        return min(map(problem.loss, kept))

    best = min(
        (p for p in plans if problem.cost(p) <= budget and row.used(p) <= room), key=problem.loss
    )
    found = {step.limit: step for step in explain(problem, best, budget, "us").steps}
    for limit, used in (("budget", problem.cost(best) / budget), ("macs", row.used(best) / room)):
        wins = [
            least(budget, room) - least(budget * f, room)
            if limit == "budget"
            else least(budget, room) - least(budget, room * f)
            for f in STEPS
        ]
        expected = next((win for win in wins if win > 1e-12 and used >= FULL), None)
        assert (limit in found) == (expected is not None)
        if expected is not None:
            assert found[limit].wins == pytest.approx(expected, abs=2e-4)
