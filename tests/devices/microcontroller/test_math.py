"""The functions of math.c, compiled for this machine, against Python's."""

from __future__ import annotations

import ctypes
import math

import pytest

from edgeprune.devices.microcontroller.toolchain import host_library

pytestmark = pytest.mark.microcontroller


@pytest.fixture(scope="module")
def library():
    return ctypes.CDLL(str(host_library("math.c", "-ffreestanding")))


def call(library, name: str, *arguments: float) -> float:
    function = getattr(library, name)
    function.restype = ctypes.c_float
    function.argtypes = [ctypes.c_float] * len(arguments)
    return function(*arguments)


@pytest.mark.parametrize(("name", "exact"), [("tanhf", math.tanh), ("erff", math.erf)])
def test_functions_of_one_argument(library, name: str, exact) -> None:
    for step in range(-400, 401):
        x = ctypes.c_float(step / 40).value
        assert call(library, name, x) == pytest.approx(exact(x), abs=5e-7)


@pytest.mark.parametrize("name", ["rintf", "nearbyintf"])
def test_rounding_is_half_to_even(library, name: str) -> None:
    for x in (-2.5, -1.5, -0.4, 0.0, 0.5, 1.5, 2.5, 3.49, 1e9, -8388609.0):
        assert call(library, name, x) == round(x)
    assert math.isnan(call(library, name, math.nan))


def test_rounding_doubles_is_half_to_even(library) -> None:
    library.llrint.restype, library.llrint.argtypes = ctypes.c_longlong, [ctypes.c_double]
    for x in (-2.5, -1.5, -0.4, 0.0, 0.5, 1.5, 2.5, 3.49, 1e15 + 0.5, -(2.0**60)):
        assert library.llrint(x) == round(x)


def test_powers(library) -> None:
    for x, y in (
        (2.0, 10.0),
        (-3.0, 3.0),
        (1.5, -2.0),
        (2.0, 0.5),
        (9.7, 1.3),
        (0.0, 0.7),
        (5.0, 0.0),
    ):
        assert call(library, "powf", x, y) == pytest.approx(x**y, rel=2e-6)
    assert math.isnan(call(library, "powf", -2.0, 0.5))
