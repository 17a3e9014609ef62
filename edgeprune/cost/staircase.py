"""How a layer's cost grows with one of its widths: the stairs, and which widths are worth offering.

Kernels work on tiles of channels, so a cost is a line through the full tiles with a pattern between
them that repeats from tile to tile: flat (a stair), above the next full tile (a cliff), or straight
(no stairs). The tile is found by a short sweep; all else follows from a few full tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeprune.records import Kernels, Stair

PERIODS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
LEAST = 0.05  # of the cost at the narrowest width measured: what a line may come down to below it
NOISE = 1.5  # times the least residual: no worse than what explains the sweep best
UNEXPLAINED = 0.03  # of the dearest cost: what a tile's pattern may leave at the most
RIPPLE = 0.08  # of a tile's rise: a pattern no further off the straight line is none
ONE = Kernels()
STRAIGHT = Stair(period=1, shares=(0.0,))
WORTH = 0.03  # of a group's dense cost: what a width must save to be offered
CURVED = 5  # full tiles from which a curve is told from a line
Floats = NDArray[np.float64]
Widths = NDArray[np.int64]


def grid(width: int, points: int = 32, divisor: int = 1) -> tuple[int, ...]:
    """Return evenly spaced widths from narrow to `width`, at least `points` where there are.

    The spacing is a power of 2, so that no stair of a power of 2 is stepped over; widths are
    multiples of `divisor`.
    """
    step = math.lcm(1 << max(0, (width // points).bit_length() - 1), divisor)
    return tuple(sorted({*range(step, width + 1, step), width}))


def find_stair(
    widths: Sequence[int], costs: Sequence[float], tolerance: float, multiple: int = 1
) -> Stair | None:
    """Return the smallest tile of channels that explains a short sweep, None where none does.

    For each period q, with k full tiles and j channels more in a width w = k q + j,

        cost(w) = g(k q) + r_j,            r_0 = 0      (channels beyond the tiles add a cost)
        cost(w) = g(q ceil(w / q)) f_j,    f_0 = 1      (off the tiles the cost is multiplied)

    are fitted by least squares, with a polynomial g of degree 1, or 2 over five tiles and more. The
    first period counts whose residual standard error (the root of the squared errors over the
    degrees of freedom) is at most `tolerance` of the dearest cost or half as large again as the
    least one, which noise accounts for; above 3 % of it and `tolerance`, nothing is explained.
    The r_j are kept as shares of the rise of g over a tile, so that they hold for other layers of
    the same kind; where none is far from j / q, q is 1. A tile must have been seen twice.

    Args:
        widths: ascending.
        costs: cost at each width, above 0.
        tolerance: share of the dearest cost.
        multiple: what all widths are multiples of, and so all tiles.
    """
    w, y = np.asarray(widths, dtype=np.int64), np.asarray(costs, dtype=np.float64)
    found: list[tuple[float, Stair]] = []
    span = (int(w[-1] - w[0]) + 1) // 2
    for period in PERIODS:
        if period > max(1, span):  # not seen twice
            break
        if period > 1 and (period % multiple or period == multiple):  # the same as no tile
            continue
        found += [_added(w, y, period), _multiplied(w, y, period)]
    most = max(tolerance * float(y.max()), NOISE * min(error for error, _ in found))
    error, stair = next(fit for fit in found if fit[0] <= most)
    if error > max(tolerance, UNEXPLAINED) * float(y.max()):
        return None
    return found[0][1] if _straight(stair) else stair


def _straight(stair: Stair) -> bool:
    """Whether the pattern of a tile is a line but for ripples, such as blocks of a long sum."""
    shares = enumerate(stair.shares)
    return not stair.factors and all(abs(s - j / stair.period) <= RIPPLE for j, s in shares)


def _added(w: Widths, y: Floats, period: int) -> tuple[float, Stair]:
    tiles, rest, straight = w // period * period, w % period, np.arange(period) / period
    powers = _powers(tiles, _degree(tiles), w[-1])
    steps = [(rest == j).astype(float) for j in range(1, period) if (rest == j).any()]
    matrix = np.column_stack([powers, *steps])
    solution, *_ = np.linalg.lstsq(matrix, y, rcond=None)
    middle = int(np.median(tiles)) // period * period
    ends = _powers(np.array([middle, middle + period]), powers.shape[1] - 1, w[-1])
    low, high = ends @ solution[: powers.shape[1]]
    shares = straight.copy()
    if abs(high - low) > 1e-6 * y.max():
        seen = [j for j in range(1, period) if (rest == j).any()]
        shares[seen] = solution[powers.shape[1] :] / (high - low)
    error = _residual(matrix @ solution - y, matrix.shape[1])
    return error, Stair(period=period, shares=tuple(shares.tolist()))


def _multiplied(w: Widths, y: Floats, period: int) -> tuple[float, Stair]:
    full, rest = -(-w // period) * period, w % period
    whole = rest == 0
    if period == 1 or whole.sum() < 2:
        return math.inf, STRAIGHT
    degree = _degree(full[whole])
    solution, *_ = np.linalg.lstsq(_powers(full[whole], degree, w[-1]), y[whole], rcond=None)
    base = np.maximum(_powers(full, degree, w[-1]) @ solution, 1e-3 * y.max())
    factors = np.ones(period)
    for j in range(1, period):
        if (rest == j).any():
            factors[j] = float(np.mean((y / base)[rest == j]))
    error = _residual(base * factors[rest] - y, degree + period)
    return error, Stair(period=period, factors=tuple(factors.tolist()))


def _residual(errors: Floats, parameters: int) -> float:
    return math.sqrt(float(errors @ errors) / max(1, len(errors) - parameters))


def _degree(x: Widths) -> int:
    """Return of which degree a polynomial through the different values of `x` may be."""
    count = len(set(x.tolist()))
    return 2 if count >= CURVED else min(1, count - 1)


def _powers(x: Widths, degree: int, scale: int) -> Floats:
    powers: Floats = np.vander(x / scale, degree + 1, increasing=True)
    return powers


@dataclass(frozen=True)
class Curve:
    """The cost of a layer over one of its widths, all else dense.

    Args:
        points: width -> cost as measured, above 0; the widest is the dense width.
        stair: what happens between full tiles, where kernel 0 runs.
        kernels: which widths it runs; between the points of another kernel, costs rise straight.
    """

    points: Mapping[int, float]
    stair: Stair
    kernels: Kernels = ONE

    def at(self, width: int) -> float:
        """Return the cost at `width`: as measured or, where it was not, on the stairs."""
        known = self.points.get(width)
        if known is not None:
            return known
        kernel = self.kernels.at(width)
        beside = [w for w in sorted(self.points) if self.kernels.at(w) == kernel] if kernel else []
        if beside:
            return self._line(beside, width)
        cost, dense = self._on_stairs(width), max(self.points)
        whole = self._on_stairs(dense)
        if width > self._full[-1] and self.kernels.at(dense) == 0 and whole:
            cost *= self.points[dense] / whole  # the last tile is not full
        return max(LEAST * min(self.points.values()), cost)  # noise in the pattern of a tile

    @cached_property
    def _full(self) -> list[int]:
        """The widths of full tiles that were measured; all widths where there are not two."""
        found = [w for w in sorted(self.points) if self.kernels.at(w) == 0] or sorted(self.points)
        full = [width for width in found if width % self.stair.period == 0]
        return full if len(full) > 1 else found

    def _on_stairs(self, width: int) -> float:
        period = self.stair.period
        rest = width % period
        if any(full % period for full in self._full):
            return self._line(self._full, width)
        low = self._line(self._full, width - rest)
        high = self._line(self._full, width - rest + period)
        if self.stair.factors and rest:
            return high * self.stair.factors[rest]
        return low + self.stair.shares[rest] * (high - low) if rest else low

    def _line(self, x: Sequence[int], width: int) -> float:
        """Return the cost on the line through the points at `x`, which goes on at both ends."""
        y = [self.points[place] for place in x]
        if len(x) == 1 or x[0] <= width <= x[-1]:
            return float(np.interp(width, x, y))
        a, b = (0, 1) if width < x[0] else (-2, -1)
        slope = (y[b] - y[a]) / (x[b] - x[a])
        return max(LEAST * y[0], y[a] + slope * (width - x[a]))


def worth_offering(
    widths: Sequence[int], costs: Sequence[float], *, tolerance: float = WORTH, most: int = 16
) -> tuple[int, ...]:
    """Return the widths that are cheaper than every wider one, from narrow to wide.

    A width is offered only if it saves more than `tolerance` of the dense cost against the cheapest
    wider width, so of a flat stair only its widest width remains and a width that is slower than a
    wider one never appears. If more than `most` remain, the tolerance grows until they do not.

    Args:
        widths: ascending; the last is the dense width, which is always offered.
        costs: cost at each width, above 0.
        tolerance: share of the dense cost that a narrower width must save; below 0, what it may
            cost more, where costs are not known any better.
        most: widths offered at the most.
    """
    if len(widths) != len(costs) or not widths or list(widths) != sorted(set(widths)):
        raise ValueError("widths must be ascending, with one cost each")
    offered = [widths[-1]]
    cheapest = costs[-1]
    for width, cost in zip(widths[-2::-1], costs[-2::-1], strict=True):
        if cost < cheapest - tolerance * costs[-1]:
            offered.append(width)
            cheapest = min(cheapest, cost)
    if len(offered) > most:
        more = tolerance + 0.3 * abs(tolerance) + 0.001
        return worth_offering(widths, costs, tolerance=more, most=most)
    return tuple(reversed(offered))
