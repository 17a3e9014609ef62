"""A profile without intervals, as emulators and formulas give it."""

from __future__ import annotations

from typing import Any

from edgeprune.records import ModelProfile
from tests import factories


def a_count(slim: bool = False, **overrides: Any) -> ModelProfile:
    """The profile of `factories` as exact counts, or with another `kind`."""
    plain = factories.a_profile(slim)
    layers = tuple(
        layer.model_copy(update={"low": layer.cost, "high": layer.cost}) for layer in plain.layers
    )
    exact = {"total_low": plain.total, "total_high": plain.total, "layers": layers}
    return plain.model_copy(
        update={"kind": "emulated", "unit": "instructions", **exact, **overrides}
    )
