"""The best neighbours of a plan, against all neighbours priced one by one."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Collection

import numpy as np
import pytest

from edgeprune.allocation import neighbours
from edgeprune.allocation.neighbours import Choice, nearest
from edgeprune.allocation.problem import LayerTerm, Problem, Resource

WINDOW = (0.972, 0.995)  # of the budget


def one_by_one(
    problem: Problem,
    choice: Choice,
    window: tuple[float, float],
    count: int,
    known: Collection[Choice] = (),
) -> list[Choice]:
    """What `nearest` says, by its definition."""
    found: list[tuple[float, Choice]] = []
    for changed in range(1, min(3, len(choice)) + 1):
        for places in itertools.combinations(range(len(choice)), changed):
            for deltas in itertools.product((-2, -1, 1, 2), repeat=changed):
                after = list(choice)
                for g, delta in zip(places, deltas, strict=True):
                    after[g] += delta
                offered = all(
                    0 <= after[g] < len(problem.widths[g])
                    and problem.widths[g][choice[g]] > 0
                    and problem.widths[g][after[g]] > 0
                    for g in places
                )
                if not offered or not window[0] <= problem.cost(after) <= window[1]:
                    continue
                if tuple(after) in known:
                    continue
                if all(row.used(after) <= row.limit for row in problem.resources):
                    loss = 0.0
                    for g, option in enumerate(after):  # in this order: rounding tells ties apart
                        loss += problem.losses[g][option]
                    found.append((loss, tuple(after)))
    return [after for _, after in sorted(found, key=lambda pair: pair[0])[:count]]


def chain(
    groups: int, options: int, seed: int, *, alike: bool = False, limits: bool = False
) -> tuple[Problem, Choice]:
    """Return layers in a row with a skip connection, depthwise ones between, and a choice.

    Groups that are `alike` have equal losses, and losses and costs are whole numbers: all tie.
    """
    random = np.random.default_rng(seed)
    names = tuple(f"g{g}" for g in range(groups))
    widths = tuple(tuple(8 * (k + 1) for k in range(options)) for _ in names)
    if groups > 4:  # a branch that can go: one is there, one is gone
        widths = (*widths[:-2], (0, *widths[0]), (0, *widths[0]))
    shares = [np.array(w) / w[-1] for w in widths]

    def costs(a: int | None, b: int | None, scale: float) -> np.ndarray:
        first = shares[a] if a is not None else np.ones(1)
        second = shares[b] if b is not None else np.ones(1)
        found = scale * np.outer(first, second)
        if alike:
            return np.round(10 * found)
        return found * random.uniform(0.9, 1.1, found.shape)

    ends = [(None, 0), *itertools.pairwise(range(groups)), (groups - 1, None), (0, groups - 1)]
    ends += [(g, g) for g in range(0, groups, 2)]
    layers = tuple(
        LayerTerm(f"l{n}", a, b, costs(a, b, 10.0 if alike else random.uniform(1, 10)))
        for n, (a, b) in enumerate(ends)
    )
    losses = tuple(
        tuple(float(len(w) - 1 - k) for k in range(len(w)))
        if alike
        else tuple(np.sort(random.uniform(0, 1, len(w)))[::-1].round(1 + g % 3).tolist())
        for g, w in enumerate(widths)
    )
    choice = [int(random.integers(1, len(w))) for w in widths]
    if groups > 4:
        choice[-1] = 0
    problem = Problem(names, widths, losses, layers, fixed=3.0)
    if limits:
        both = tuple(t for t in layers if t.group_in != t.group_out)
        alive = tuple(LayerTerm(n, None, g, costs(None, g, 9.0)) for g, n in enumerate(names))
        rows = [
            Resource("macs", "MACs", np.inf, both, 5.0),
            *(
                Resource("ram", "bytes", np.inf, alive[g : g + 3], 1.0, f"{g}")
                for g in range(groups)
            ),
            Resource("flash", "bytes", np.inf, both, 0.0),
        ]
        slack = (
            1.01,
            *(1.0 + 0.1 * (g % 3) for g in range(groups)),
            3.0,
        )  # the last: never reached
        limited = tuple(
            Resource(r.name, r.unit, s * r.used(choice), r.terms, r.fixed, r.part)
            for r, s in zip(rows, slack, strict=True)
        )
        problem = Problem(names, widths, losses, layers, 3.0, limited)
    return problem, tuple(choice)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("limits", [False, True])
@pytest.mark.parametrize(("groups", "options"), [(1, 5), (2, 5), (3, 4), (6, 4), (8, 5)])
def test_they_are_those_of_all_neighbours(
    groups: int, options: int, limits: bool, alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if alike:  # many parts, with ties across their ends
        monkeypatch.setattr(neighbours, "BATCH", 11)
        monkeypatch.setattr(neighbours, "FEW", 2)
    found = 0
    for seed in range(4):
        problem, choice = chain(groups, options, seed, alike=alike, limits=limits)
        cost = problem.cost(choice)
        for share in (0.9, 0.985, 1.1):
            window = (WINDOW[0] * cost / share, WINDOW[1] * cost / share)
            best = nearest(problem, choice, window, 14)
            assert best == one_by_one(problem, choice, window, 14)
            again = nearest(problem, choice, window, 5, known=best[::2])
            assert again == one_by_one(problem, choice, window, 5, known=best[::2])
            found += len(best)
    assert found or groups < 3


def test_a_cost_and_a_limit_on_the_edge_count() -> None:
    problem, choice = chain(6, 4, 0)
    window = (0.95 * problem.cost(choice), 1.02 * problem.cost(choice))
    some = one_by_one(problem, choice, window, 9)
    assert len(some) == 9
    for edge in some:
        cost = problem.cost(edge)
        assert edge in nearest(problem, choice, (cost, cost), 14)
        row = Resource("macs", "MACs", cost, problem.layers, problem.fixed)
        limited = Problem(
            problem.names, problem.widths, problem.losses, problem.layers, 3.0, (row,)
        )
        assert edge in nearest(limited, choice, (cost, window[1]), 14)
        row = Resource("macs", "MACs", np.nextafter(cost, 0.0), problem.layers, problem.fixed)
        limited = Problem(
            problem.names, problem.widths, problem.losses, problem.layers, 3.0, (row,)
        )
        assert edge not in nearest(limited, choice, window, 1000)


@pytest.mark.parametrize("alike", [False, True])
def test_of_ten_million_neighbours_few_are_summed_up(
    alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 groups: C(100, 3) * 64 choices of three alone."""
    problem, choice = chain(100, 12, 0, alike=alike, limits=True)
    cost = problem.cost(choice)
    summed, real = [0], neighbours._sums

    def counted(terms: object, fixed: float, plans: np.ndarray) -> np.ndarray:
        summed[0] += len(plans)
        return real(terms, fixed, plans)

    monkeypatch.setattr(neighbours, "_sums", counted)
    tracemalloc.start()
    best = nearest(problem, choice, (WINDOW[0] * cost / 0.985, WINDOW[1] * cost / 0.985), 14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(best) == 14
    assert summed[0] < 1_000_000
    assert peak < 100 * 2**20
