from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.allocation.correction import LAYER, NOISE, PRICE, Observation, corrected
from edgeprune.allocation.problem import LayerTerm, Problem


def a_problem(seed: int = 0) -> Problem:
    random = np.random.default_rng(seed)
    terms = [
        LayerTerm("first", None, 0, random.uniform(1, 5, (1, 3))),
        LayerTerm("second", 0, 1, random.uniform(1, 5, (3, 3))),
        LayerTerm("third", 1, None, random.uniform(1, 5, (3, 1))),
    ]
    losses = ((2.0, 1.0, 0.0),) * 2
    return Problem(("a", "b"), ((8, 16, 24),) * 2, losses, tuple(terms), 1.5)


def test_nothing_seen_changes_nothing() -> None:
    problem = a_problem()
    assert corrected(problem, []) is problem


def test_a_plan_that_costs_what_was_predicted_changes_nothing() -> None:
    problem = a_problem()
    after = corrected(problem, [Observation((1, 1), problem.cost((1, 1)))])
    for choice in ((0, 0), (1, 1), (2, 1)):
        assert after.cost(choice) == pytest.approx(problem.cost(choice))


@given(st.integers(0, 50), st.floats(0.8, 1.25))
def test_a_measured_plan_is_predicted_as_measured(seed: int, factor: float) -> None:
    problem = a_problem(seed)
    wanted = factor * problem.cost((0, 1))
    after = corrected(problem, [Observation((0, 1), wanted)])
    assert after.cost((0, 1)) == pytest.approx(wanted, rel=0.01)


def test_other_plans_move_the_same_way_but_less() -> None:
    problem = a_problem()
    after = corrected(problem, [Observation((0, 0), 1.1 * problem.cost((0, 0)))])
    shares = [after.cost(c) / problem.cost(c) - 1 for c in ((0, 0), (0, 1), (2, 2))]
    assert shares[0] == pytest.approx(0.1, abs=0.01)
    assert all(0.02 < share < 0.12 for share in shares)


def test_the_layer_that_errs_is_found_from_two_plans() -> None:
    problem = a_problem()
    second = problem.layers[1].costs

    def truth(choice: tuple[int, int]) -> float:
        return problem.cost(choice) + 0.3 * float(second[choice])

    seen = [Observation(c, truth(c)) for c in ((0, 0), (2, 2), (2, 0), (0, 2))]
    after = corrected(problem, seen)
    before = abs(problem.cost((1, 1)) / truth((1, 1)) - 1)
    assert abs(after.cost((1, 1)) / truth((1, 1)) - 1) < 0.35 * before


def test_one_term_by_hand() -> None:
    """One layer, one plan: gain = (WHOLE^2 + LAYER^2 + PRICE^2) c^2 + OVERHEAD^2 s^2 over that + noise."""
    from edgeprune.allocation.correction import OVERHEAD, WHOLE

    cost = 10.0
    term = LayerTerm("only", None, 0, np.array([[4.0, cost]]))
    problem = Problem(("a",), ((8, 16),), ((1.0, 0.0),), (term,), 0.0)
    after = corrected(problem, [Observation((1,), 11.0)])
    explained = (WHOLE**2 + LAYER**2 + PRICE**2) * cost**2 + (OVERHEAD * cost) ** 2
    gain = explained / (explained + (NOISE * 11.0) ** 2)
    assert after.cost((1,)) == pytest.approx(cost + gain * 1.0)
    moved = (WHOLE**2 + LAYER**2) * cost * 4.0 + (OVERHEAD * cost) ** 2
    assert after.cost((0,)) == pytest.approx(4.0 + moved / (explained + (NOISE * 11.0) ** 2))
