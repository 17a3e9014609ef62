"""Which kernel of the runtime runs which width, told by the operators that probes ran.

A runtime may have several kernels for a layer: one of blocked memory layout for multiples of some
width, one that first copies its inputs into a matrix for all other widths, and one for few
channels. Each has stairs of its own. What ran is seen in the operators of a probe, those that
change the layout included, so noise does not blur the borders.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from edgeprune.cost.staircase import PERIODS
from edgeprune.records import Kernels

LEAST = 4  # widths in a row that a rule must explain


def find_kernels(forms: Mapping[int, Hashable]) -> Kernels:
    """Return the rule that explains what ran, from the widest width down to as narrow as may be.

    With a multiple q, all multiples of q run alike, all others run alike, and the two differ; of
    all q the one that explains down to the narrowest width (`start`) counts, of several the least.
    Both classes of widths must have been seen twice.

    Args:
        forms: width -> what ran, at consecutive widths.
    """
    rules = [Kernels(multiple=q, start=_start(forms, q)) for q in PERIODS]
    widest, narrowest = max(forms), min(forms)
    seen = [r for r in rules if widest - r.start + 1 >= max(LEAST, 2 * r.multiple)]
    if not seen:
        return Kernels()
    best = min(seen, key=lambda rule: (rule.start, rule.multiple))
    return best if best.start > narrowest else Kernels(multiple=best.multiple)


def _start(forms: Mapping[int, Hashable], multiple: int) -> int:
    """Return down to which width multiples run alike, and all others too; above all if none."""
    found: dict[bool, Hashable] = {}
    start = max(forms) + 1
    for width in sorted(forms, reverse=True):
        form = forms[width]
        on = width % multiple == 0
        if found.setdefault(on, form) != form or found.get(not on) == form:
            break
        start = width
    return start


def spread(widths: Sequence[int], count: int) -> tuple[int, ...]:
    """Return up to `count` of the ascending `widths`, evenly, the first and last among them."""
    if not widths:
        return ()
    last = len(widths) - 1
    places = {round(i * last / max(1, count - 1)) for i in range(count)}
    return tuple(widths[place] for place in sorted(places))
