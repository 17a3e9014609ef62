"""Which widths are worth offering: the tops of the stairs, found by measuring."""

from __future__ import annotations

import math
from collections.abc import Sequence


def grid(width: int, points: int = 32, divisor: int = 1) -> tuple[int, ...]:
    """Return evenly spaced widths from narrow to `width`, at least `points` where there are.

    The spacing is a power of 2, so that no stair of a power of 2 is stepped over; widths are
    multiples of `divisor`.
    """
    step = math.lcm(1 << max(0, (width // points).bit_length() - 1), divisor)
    return tuple(sorted({*range(step, width + 1, step), width}))


def worth_offering(
    widths: Sequence[int], costs: Sequence[float], *, tolerance: float = 0.03, most: int = 16
) -> tuple[int, ...]:
    """Return the widths that are cheaper than every wider one, from narrow to wide.

    A width is offered only if it saves more than `tolerance` of the dense cost against the cheapest
    wider width, so of a flat stair only its widest width remains and a width that is slower than a
    wider one never appears. If more than `most` remain, the tolerance grows until they do not.

    Args:
        widths: ascending; the last is the dense width, which is always offered.
        costs: cost at each width, above 0.
        tolerance: share of the dense cost that a narrower width must save.
        most: widths offered at the most.
    """
    if len(widths) != len(costs) or not widths or list(widths) != sorted(set(widths)):
        raise ValueError("widths must be ascending, with one cost each")
    offered = [widths[-1]]
    cheapest = costs[-1]
    for width, cost in zip(widths[-2::-1], costs[-2::-1], strict=True):
        if cost < cheapest - tolerance * costs[-1]:
            offered.append(width)
            cheapest = cost
    if len(offered) > most:
        return worth_offering(widths, costs, tolerance=1.3 * tolerance + 0.001, most=most)
    return tuple(reversed(offered))
