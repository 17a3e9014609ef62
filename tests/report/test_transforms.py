"""What was done before the cut, in words that the kind of figure allows."""

from __future__ import annotations

import pytest

from edgeprune.records import Chain, Collapse, Gate, Prepared, Verdict
from edgeprune.report.transforms import sentences
from tests import factories


def a_verdict(met: bool | None, **overrides: object) -> Verdict:
    """A verdict whose speed-up gate is `met`, or not measured (None), with a collapse and a gain."""
    collapse = Collapse(
        chain=Chain(first="a", between=(), last="b", swappable=True),
        inputs=8,
        outputs=4,
        error=0.01,
        max_error=0.05,
        cost=factories.a_comparison(),
        accepted=True,
        reason="it pays",
    )
    prepared = Prepared(collapses=(collapse,), gain=factories.a_comparison())
    gate = Gate(name="speedup", met=met, limit=1.0, value=2.019)
    return factories.a_verdict(prepared=prepared, gates=(gate,), **overrides)


@pytest.mark.parametrize(
    ("met", "kind", "name"),
    [
        (True, "measured", "speed-up"),
        (None, "measured", "ratio without meaning"),
        (None, "estimated", "estimated ratio"),
    ],
)
def test_a_ratio_is_called_what_the_verdict_calls_it(
    met: bool | None, kind: str, name: str
) -> None:
    collapse, gain = sentences(a_verdict(met, kind=kind))
    ratio = f"{name} 2.027\N{MULTIPLICATION SIGN}, 95 % interval"
    assert gain.startswith(f"Before any width was chosen: {ratio}")
    assert ratio in collapse
    assert ("speed-up" in collapse + gain) == (name == "speed-up")
