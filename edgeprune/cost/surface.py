"""The cost of a layer over both of its widths, from few pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

LEAST = 0.05  # of the lowest known cost: what a line may come down to below it
FLAT = 1e-3  # of the dearest place: places no further apart are the same
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """Costs at pairs of places, and bilinear between them.

    Places are not widths but costs: with all else dense, what the layer costs at that width in, and
    at that width out. A layer that takes a channels and yields b does

        cost(a, b) = p + q A(a) + r B(b) + s A(a) B(b)

    where A and B count what the kernels compute: channels, or tiles of them. Then both places are
    linear in A and B, and the cost is bilinear in the places, exactly, whatever the stairs are. So
    four pairs are enough where the formula holds, and further ones correct it.

    Args:
        ins: ascending places of the rows.
        outs: ascending places of the columns.
        costs: at each pair.
    """

    ins: Sequence[float]
    outs: Sequence[float]
    costs: Matrix

    def at(self, place_in: float, place_out: float) -> float:
        """Return the cost at a pair of places; beyond the outermost, lines go on."""
        i, t = _cell(self._rows, place_in)
        j, s = _cell(self._columns, place_out)
        c = self.costs
        low = c[i, j] + (s * (c[i, j + 1] - c[i, j]) if s else 0.0)
        high = (c[i + 1, j] + (s * (c[i + 1, j + 1] - c[i + 1, j]) if s else 0.0)) if t else low
        return float(max(LEAST * c.min(), low + t * (high - low)))

    @cached_property
    def _rows(self) -> list[float]:
        return _ascending(self.ins)

    @cached_property
    def _columns(self) -> list[float]:
        return _ascending(self.outs)


def _ascending(places: Sequence[float]) -> list[float]:
    """Return `places` such that none is lower than, or the same as, the one before (noise)."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + 1e-6 * abs(places[-1])) if found else place)
    return found


def _cell(places: Sequence[float], place: float) -> tuple[int, float]:
    """Return the interval that `place` lies in or next to, and how far along it."""
    if len(places) == 1:
        return 0, 0.0
    i = int(np.clip(np.searchsorted(places, place, side="right") - 1, 0, len(places) - 2))
    gap = places[i + 1] - places[i]
    t = (place - places[i]) / gap if gap else 0.0  # all places are 0: free
    if gap <= FLAT * abs(places[-1]):  # a difference of noise has no slope to go on with
        t = min(max(t, 0.0), 1.0)
    return i, float(t)
