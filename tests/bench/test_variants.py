"""What may be compared, as it is written."""

from __future__ import annotations

import pytest

from edgeprune.bench.variants import Variant, everything, variant
from edgeprune.errors import UsageError

CRITERIA = ("taylor", "l2")


@pytest.mark.parametrize(
    "text", ["exact/taylor", " exact/l2", "exact/fisher", "exact/", "exact/l2@8"]
)
def test_exact_takes_no_criterion(text: str) -> None:
    """Rows of exact under other labels would be the same rows again."""
    with pytest.raises(
        UsageError, match="exact ranks each group by a criterion that it finds"
    ) as e:
        variant(text, CRITERIA)
    assert "write exact alone" in e.value.hint


def test_everything_that_is_compared_by_default_can_be_named() -> None:
    found = everything(CRITERIA)
    assert tuple(variant(one.label, CRITERIA) for one in found) == found
    assert Variant("exact") in found


@pytest.mark.parametrize("multiple", ["²", "٣", "0", "", "-8", "1.5", "9" * 7, "9" * 5000])
def test_what_is_no_multiple_is_refused(multiple: str) -> None:
    with pytest.raises(UsageError, match="@ gives the multiple that widths are rounded to") as e:
        variant(f"global@{multiple}", CRITERIA)
    assert "a whole number" in e.value.hint
    assert variant("global@016", CRITERIA).round_to == 16


@pytest.mark.parametrize("text", ["scratch/l2", "narrower/fisher", "scratch/"])
def test_baselines_take_no_criterion(text: str) -> None:
    name = text.partition("/")[0]
    with pytest.raises(UsageError, match=f"{name} cuts no channels, so no importance") as e:
        variant(text, CRITERIA)
    assert e.value.hint == f"write {name} alone"
