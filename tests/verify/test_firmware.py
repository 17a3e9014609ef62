"""The gate that firmware computes what the runtime computes."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.errors import DeviceError
from edgeprune.verify.firmware import agreement

SCALE = 0.05


def outputs() -> np.ndarray:
    integers = np.random.default_rng(0).integers(-100, 100, (200, 10))
    integers[:, 3] = 110
    return (integers * SCALE).astype(np.float32)


def test_equal_outputs_and_one_unit_pass() -> None:
    first = outputs()
    assert agreement(first, first, SCALE).max_units == 0
    second = first.copy()
    second[7, 1] += SCALE
    found = agreement(first, second, SCALE)
    assert (found.max_units, found.passed, found.top1_agreement) == (1, True, 1.0)
    assert found.samples == 200


def test_two_units_do_not_pass() -> None:
    first, second = outputs(), outputs()
    second[7, 1] += 2 * SCALE
    found = agreement(first, second, SCALE)
    assert (found.max_units, found.passed) == (2, False)


@pytest.mark.parametrize(("count", "passed"), [(1, True), (2, False)])
def test_top1_has_to_agree_in_995_of_1000(count, passed) -> None:
    first, second = outputs(), outputs()
    first[:count, 4] = 110 * SCALE  # the first of equal outputs wins: still number 3
    second[:count, 4] = 111 * SCALE
    found = agreement(first, second, SCALE)
    assert found.top1_agreement == 1 - count / 200
    assert found.max_units == 1
    assert found.passed is passed


def test_other_shapes_are_refused() -> None:
    with pytest.raises(DeviceError, match="returns"):
        agreement(outputs(), outputs()[:, :9], SCALE)
