"""Costs over two widths from a few pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeprune.cost.surface import Surface


@pytest.mark.parametrize("step", [1, 4, 16])
def test_four_pairs_tell_all_of_a_bilinear_cost_on_stairs(step: int) -> None:
    def cost(a: int, b: int) -> float:
        up = [-(-w // step) * step for w in (a, b)]
        return 7.0 + 0.3 * up[0] + 0.2 * up[1] + 0.05 * up[0] * up[1]

    ins, outs = (16, 64), (16, 128)
    known = np.array([[cost(a, b) for b in outs] for a in ins])
    surface = Surface([cost(a, 128) for a in ins], [cost(64, b) for b in outs], known)
    for a, b in itertools.product((1, 9, 16, 17, 40, 64), (3, 16, 31, 77, 128)):
        assert surface.at(cost(a, 128), cost(64, b)) == pytest.approx(cost(a, b), rel=1e-9)


def test_further_pairs_correct_what_is_not_bilinear() -> None:
    def cost(a: float, b: float) -> float:
        return 5.0 + a * b + 20.0 * max(a, b)

    def error(widths: tuple[int, ...]) -> float:
        known = np.array([[cost(a, b) for b in widths] for a in widths])
        places = [cost(a, 64) for a in widths], [cost(64, b) for b in widths]
        surface = Surface(*places, known)
        pairs = itertools.product((12, 20, 28, 40, 56), repeat=2)
        return max(abs(surface.at(cost(a, 64), cost(64, b)) / cost(a, b) - 1) for a, b in pairs)

    assert 0.0 < error((8, 16, 32, 64)) < 0.8 * error((8, 64))


def test_noise_in_the_order_of_places_is_survived() -> None:
    surface = Surface([1.0, 1.01, 1.0, 2.0], [0.0], np.array([[1.0], [1.0], [1.0], [2.0]]))
    assert surface.at(1.0, 0.0) == pytest.approx(1.0)
    assert surface.at(1.5, 0.0) == pytest.approx(1.5, abs=0.02)
    assert surface.at(2.0, 0.0) == pytest.approx(2.0)
    assert surface.at(-50.0, 0.0) > 0.0
    swapped = Surface([1.03, 1.01, 1.02, 2.0], [0.0], np.array([[1.0], [0.9], [1.0], [2.0]]))
    assert swapped.at(0.98, 0.0) == pytest.approx(1.0, abs=0.1)
