"""Plans close to another one: those of least summed loss, without pricing all there are.

Of the ten million neighbours among 100 groups nearly all are ruled out by what their changes add to
cost, limits and loss. A term has two groups at most, so what three changes add is what each adds
alone and what each two of them add together. Only the others are summed up in full.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeprune.allocation.problem import LayerTerm, Problem

CHANGED, FAR = 3, 2  # groups that a neighbour differs in, and by how many offered widths
BATCH, FEW = 4096, 64  # plans whose losses, and whose costs, are summed up at a time
ROUNDING = 1e-9  # of the largest sum there can be: what sums of differences may miss
Choice = tuple[int, ...]
Indices = NDArray[np.intp]
Vector = NDArray[np.float64]


def nearest(
    problem: Problem,
    choice: Choice,
    window: tuple[float, float],
    count: int,
    known: Collection[Choice] = (),
) -> list[Choice]:
    """Return the `count` neighbours of `choice` of least summed loss, the least first.

    They differ from it in at most three groups, by at most two offered widths, and are inside all
    limits. What is removed stays removed, and nothing else goes. Of equal losses those come first
    that change fewer groups, then those that change groups named first, then the narrower ones.

    Args:
        problem: losses, costs and limits.
        choice: the option that each group takes.
        window: least and largest cost, in the device's unit.
        count: how many, at least 1; there may be fewer.
        known: choices that are not to be returned.
    """
    search = _Search(problem, choice, window, count, known)
    if len(search.group):
        search.singles()
        search.pairs(None)
        for first in range(len(search.group)):
            search.pairs(first)
    return [found for *_, found in search.best]


class _Added:
    """A sum of terms at neighbours: the sum at the choice, and what moves add to it.

    `single` [moves] is what each adds alone, `pair` [moves, moves] what each two add beyond that,
    None where no term has two groups. `slack` is what rounding may come to.
    """

    def __init__(
        self, terms: Sequence[LayerTerm], fixed: float, choice: Choice, group: Indices, to: Indices
    ) -> None:
        self.base = float(_sums(terms, fixed, np.array([choice], dtype=np.intp))[0])
        self.single: Vector = np.zeros(len(group))
        self.pair: Vector | None = None
        self.slack = ROUNDING * (abs(fixed) + sum(float(np.abs(t.costs).max()) for t in terms))
        at = [np.flatnonzero(group == g) for g in range(len(choice))]
        for term in terms:
            a, b, costs = term.group_in, term.group_out, term.costs
            i, j = choice[a] if a is not None else 0, choice[b] if b is not None else 0
            if a is not None and a == b:
                self.single[at[a]] += costs[to[at[a]], to[at[a]]] - costs[i, j]
                continue
            if a is not None:
                self.single[at[a]] += costs[to[at[a]], j] - costs[i, j]
            if b is not None:
                self.single[at[b]] += costs[i, to[at[b]]] - costs[i, j]
            if a is not None and b is not None:
                if self.pair is None:
                    self.pair = np.zeros((len(group), len(group)))
                rows, columns = costs[to[at[a]], j], costs[i, to[at[b]]]
                both = costs[np.ix_(to[at[a]], to[at[b]])]
                both = both - rows[:, None] - columns[None, :] + costs[i, j]
                self.pair[np.ix_(at[a], at[b])] += both
                self.pair[np.ix_(at[b], at[a])] += both.T

    def grid(self, first: int | None, start: int) -> Vector:
        """Return the sums [n, n] of pairs of the moves from `start` on, together with `first`."""
        base, single = self.base, self.single[start:]
        if first is not None:
            base = base + self.single[first]
            single = single if self.pair is None else single + self.pair[first, start:]
        found: Vector = base + single[:, None] + single[None, :]
        return found if self.pair is None else found + self.pair[start:, start:]

    def largest(self) -> float:
        """Return a bound of the sums that no neighbour exceeds."""
        single = float(self.single.max(initial=0.0))
        pair = 0.0 if self.pair is None else float(self.pair.max(initial=0.0))
        return self.base + CHANGED * single + CHANGED * pair + self.slack


class _Search:
    """The search for the best neighbours. Move m gives group `group[m]` its option `to[m]`."""

    def __init__(
        self,
        problem: Problem,
        choice: Choice,
        window: tuple[float, float],
        count: int,
        known: Collection[Choice],
    ) -> None:
        self.problem, self.choice, self.window = problem, choice, window
        self.count, self.known = count, known
        self.best: list[tuple[float, int, tuple[int, ...], Choice]] = []  # sorted
        moves = [
            (g, option)
            for g, (widths, now) in enumerate(zip(problem.widths, choice, strict=True))
            for option in range(max(0, now - FAR), min(len(widths), now + FAR + 1))
            if option != now and widths[now] > 0 and widths[option] > 0
        ]
        self.group, self.to = np.array(moves, dtype=np.intp).reshape(-1, 2).T
        self.later = self.group[:, None] < self.group[None, :]
        losses = [LayerTerm("", None, g, np.array([x])) for g, x in enumerate(problem.losses)]
        self.loss = self._added(losses, 0.0)
        self.cost = self._added(problem.layers, problem.fixed)
        rows = [(self._added(row.terms, row.fixed), row.limit) for row in problem.resources]
        rows = [(row, limit + row.slack) for row, limit in rows if row.largest() > limit]
        self.paired = [(row, limit) for row, limit in rows if row.pair is not None]
        self.single = [(row, limit) for row, limit in rows if row.pair is None]
        self.broken = np.zeros(self.later.shape, dtype=np.intp)  # rows that a pair breaks alone
        for row, limit in self.single:
            self.broken += row.grid(None, 0) > limit
        self.losses = losses

    def _added(self, terms: Sequence[LayerTerm], fixed: float) -> _Added:
        return _Added(terms, fixed, self.choice, self.group, self.to)

    def singles(self) -> None:
        """Look at all single moves."""
        self._take(np.arange(len(self.group))[:, None])

    def pairs(self, first: int | None) -> None:
        """Look at all pairs of moves, or at all triples that begin with move `first`."""
        start = 0 if first is None else int(self.later[first].argmax())
        if first is not None and not self.later[first].any():
            return
        cost = self.cost.grid(first, start)
        low, high = self.window[0] - self.cost.slack, self.window[1] + self.cost.slack
        left = self.later[start:, start:] & (cost >= low) & (cost <= high)
        left &= self.loss.grid(first, start) <= self._bound()
        for row, limit in self.paired:
            left &= row.grid(first, start) <= limit
        broken = self.broken[start:, start:]
        for row, limit in self.single:
            if first is not None and row.single[first]:  # most moves touch few rows of RAM
                pair = row.grid(None, start)
                broken = broken - (pair > limit)
                left &= pair + row.single[first] <= limit
        two = start + np.argwhere(left & (broken == 0))
        ones = [] if first is None else [np.full((len(two), 1), first)]
        self._take(np.hstack([*ones, two]))

    def _bound(self) -> float:
        """Return the loss above which no neighbour is of interest."""
        return self.best[-1][0] + self.loss.slack if len(self.best) == self.count else np.inf

    def _take(self, moves: Indices) -> None:
        """Take the best of the neighbours with `moves` [n, changed groups] made."""
        losses = self.loss.single[moves].sum(1) + self.loss.base
        order = losses.argsort(kind="stable")
        for start in range(0, len(order), BATCH):
            if losses[order[start]] > self._bound():
                break
            self._compare(moves[order[start : start + BATCH]])

    def _compare(self, moves: Indices) -> None:
        """Sum up the losses of neighbours as plans are compared by, and the rest of the best."""
        groups, to = self.group[moves], self.to[moves]
        plans = np.tile(np.array(self.choice, dtype=np.intp), (len(moves), 1))
        np.put_along_axis(plans, groups, to, 1)
        losses = _sums(self.losses, 0.0, plans)
        order = np.lexsort((*to.T[::-1], *groups.T[::-1], losses))
        for start in range(0, len(order), FEW):
            chosen = order[start : start + FEW]
            keys = [
                (
                    float(losses[k]),
                    moves.shape[1],
                    tuple(groups[k].tolist()),
                    tuple(plans[k].tolist()),
                )
                for k in chosen
            ]
            if len(self.best) == self.count and keys[0] > self.best[-1]:
                break
            for key, fits in zip(keys, self._fit(plans[chosen]), strict=True):
                if fits and key[-1] not in self.known:
                    bisect.insort(self.best, key)
            del self.best[self.count :]

    def _fit(self, plans: Indices) -> NDArray[np.bool_]:
        """Return which plans [n, groups] are in the window and inside all limits."""
        cost = _sums(self.problem.layers, self.problem.fixed, plans)
        fits: NDArray[np.bool_] = (self.window[0] <= cost) & (cost <= self.window[1])
        for row in self.problem.resources:
            fits &= _sums(row.terms, row.fixed, plans) <= row.limit
        return fits


def _sums(terms: Sequence[LayerTerm], fixed: float, plans: Indices) -> Vector:
    """Return fixed + sum of terms at plans [n, groups], to the last bit what `total` gives."""
    found: Vector = np.zeros(len(plans))
    for term in terms:
        i = plans[:, term.group_in] if term.group_in is not None else 0
        j = plans[:, term.group_out] if term.group_out is not None else 0
        found = found + term.costs[i, j]
    return fixed + found
