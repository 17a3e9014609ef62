"""The exact allocator: a mixed-integer linear program, solved by HiGHS.

    minimise    sum_g sum_k loss[g,k] x[g,k]
    subject to  sum_k x[g,k] = 1                              one width a group
                sum_j y[p,i,j] = x[a(p),i]                    pairs agree with both ends
                sum_i y[p,i,j] = x[b(p),j]
                lower <= fixed + sum cost[p,i,j] y[p,i,j] <= budget
                x[g,0] = x[h,0]                               groups of a removable branch
                fixed[r] + sum value[r,p,i,j] y[p,i,j] <= limit[r]
                x binary, 0 <= y <= 1

p runs over the pairs of groups that are the two ends of a layer, r over further limits.

With x binary the pairs y are binary by themselves. Prices for pairs of widths are what makes the
cost of a plan exact: a layer's cost depends on both of its widths (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from edgeprune.allocation.problem import LayerTerm, Problem
from edgeprune.errors import InternalCheckError

LARGE = 1e9  # losses beyond are scaled: HiGHS takes coefficients above 1e15 for infinite
LIMIT_SCALE = 1e3  # further limits are scaled to this, so that HiGHS's tolerance is one of them


@dataclass(frozen=True)
class Solution:
    """An option for each group, the loss, the cost, and the proven relative gap of the loss."""

    choice: tuple[int, ...]
    loss: float
    cost: float
    gap: float


@dataclass
class _Rows:
    """A sparse constraint matrix, row by row."""

    starts: list[int]
    columns: list[int]
    values: list[float]
    lower: list[float]
    upper: list[float]

    def add(self, entries: list[tuple[int, float]], lower: float, upper: float) -> None:
        self.columns += [column for column, _ in entries]
        self.values += [value for _, value in entries]
        self.starts.append(len(self.columns))
        self.lower.append(lower)
        self.upper.append(upper)


def solve(
    problem: Problem,
    budget: float,
    *,
    lower: float = 0.0,
    without: Sequence[Sequence[int]] = (),
    unlike: Sequence[int] = (),
    near: tuple[tuple[int, ...], int] | None = None,
    gap: float = 1e-4,
    seconds: float = 60.0,
    seed: int = 0,
) -> Solution | None:
    """Return the choice of least loss whose cost lies in [lower, budget], or None if there is none.

    Args:
        problem: groups, losses and costs.
        budget: largest cost, in the device's unit.
        lower: smallest cost.
        without: choices that are not to be taken again.
        unlike: a choice from which the answer differs in two groups at least.
        near: a choice, and in how many groups the answer may differ from it.
        gap: relative optimality gap at which the solver may stop.
        seconds: time after which it stops with the best found.
        seed: of the solver.

    Raises:
        InternalCheckError: HiGHS fails or its answer breaks the budget.
    """
    limits = lower, without, unlike, near
    return _solve(problem, budget, *limits, gap, seconds, seed, minimise_cost=False)


def cheapest(
    problem: Problem, *, without: Sequence[Sequence[int]] = (), seconds: float = 60.0
) -> Solution | None:
    """Return the choice of least cost whatever its loss, or None if the resources allow none.

    Args:
        problem: what to solve.
        without: choices that are out of the question.
        seconds: for the search.

    Raises:
        InternalCheckError: HiGHS fails.
    """
    return _solve(problem, np.inf, 0.0, without, (), None, 1e-6, seconds, 0, minimise_cost=True)


def _solve(
    problem: Problem,
    budget: float,
    lower: float,
    without: Sequence[Sequence[int]],
    unlike: Sequence[int],
    near: tuple[tuple[int, ...], int] | None,
    gap: float,
    seconds: float,
    seed: int,
    *,
    minimise_cost: bool,
) -> Solution | None:
    sizes = [len(widths) for widths in problem.widths]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    losses = [value for group in problem.losses for value in group]
    if (largest := max(losses, default=0.0)) > LARGE:
        losses = [value / largest for value in losses]
    rows = _Rows([0], [], [], [], [])
    for g, size in enumerate(sizes):
        rows.add([(int(offsets[g]) + k, 1.0) for k in range(size)], 1.0, 1.0)
    for first, *others in problem.tied:
        for other in others:
            rows.add([(int(offsets[first]), 1.0), (int(offsets[other]), -1.0)], 0.0, 0.0)
    places = _pairs(problem, sizes, offsets, rows)
    count, columns = int(offsets[-1]), max(places.end, int(offsets[-1]))
    costs = places.sum(problem.layers, columns)
    rows.add(
        _entries(costs),
        lower - problem.fixed if lower > 0 else -highspy.kHighsInf,
        budget - problem.fixed if np.isfinite(budget) else highspy.kHighsInf,
    )
    for resource in problem.resources:
        scale = LIMIT_SCALE / max(abs(resource.limit), abs(resource.fixed), 1e-9)
        values = scale * places.sum(resource.terms, columns)
        room = scale * (resource.limit - resource.fixed)
        rows.add(_entries(values), -highspy.kHighsInf, room)
    for choice, apart in (*((c, 1.0) for c in without), *([(unlike, 2.0)] if unlike else ())):
        taken = [(int(offsets[g]) + k, 1.0) for g, k in enumerate(choice)]
        rows.add(taken, -highspy.kHighsInf, len(choice) - apart)
    if near is not None:
        same = [(int(offsets[g]) + k, 1.0) for g, k in enumerate(near[0])]
        rows.add(same, float(len(same) - near[1]), highspy.kHighsInf)
    objective = costs.tolist() if minimise_cost else losses + [0.0] * (columns - count)
    answer, found_gap = _run(objective, rows, count, gap, seconds, seed)
    if answer is None:
        return None
    choice = tuple(int(np.argmax(answer[offsets[g] : offsets[g + 1]])) for g in range(len(sizes)))
    cost = problem.cost(choice)
    if cost > budget * (1 + 1e-6) or cost < lower * (1 - 1e-6):
        raise InternalCheckError(
            f"the solver's plan costs {cost:.6g}, outside [{lower:.6g}, {budget:.6g}]"
        )
    for resource in problem.resources:
        if resource.used(choice) > resource.limit * (1 + 1e-6):
            raise InternalCheckError(
                f"the solver's plan needs {resource.used(choice):.6g} {resource.unit} of "
                f"{resource.name}, the limit is {resource.limit:.6g}"
            )
    return Solution(choice, problem.loss(choice), cost, found_gap)


@dataclass(frozen=True)
class _Places:
    """Columns of the program: one an option of a group, then one a pair of options."""

    sizes: list[int]
    offsets: np.ndarray
    first: dict[tuple[int, int], int]
    end: int

    def sum(self, terms: Sequence[LayerTerm], columns: int) -> np.ndarray:
        """Return the coefficient of each column in the sum of `terms`."""
        values = np.zeros(columns)
        for term in terms:
            a, b = term.group_in, term.group_out
            if a is None or b is None or a == b:
                group = b if a is None else a
                assert group is not None
                single = np.diag(term.costs) if a == b else term.costs.ravel()
                values[self.offsets[group] : self.offsets[group] + self.sizes[group]] += single
                continue
            costs = term.costs if a < b else term.costs.T
            first = self.first[min(a, b), max(a, b)]
            values[first : first + costs.size] += costs.ravel()
        return values


def _pairs(problem: Problem, sizes: list[int], offsets: np.ndarray, rows: _Rows) -> _Places:
    """Add rows that tie pairs of options to both groups; layers of the same two share them."""
    end = int(offsets[-1])
    first: dict[tuple[int, int], int] = {}
    terms = [*problem.layers, *(t for r in problem.resources for t in r.terms)]
    for term in terms:
        a, b = term.group_in, term.group_out
        if a is None or b is None or a == b:
            continue
        a, b = min(a, b), max(a, b)
        if (a, b) in first:
            continue
        first[a, b] = end
        ins, outs = sizes[a], sizes[b]
        for i in range(ins):
            pairs = [(end + i * outs + j, 1.0) for j in range(outs)]
            rows.add([*pairs, (int(offsets[a]) + i, -1.0)], 0.0, 0.0)
        for j in range(outs):
            pairs = [(end + i * outs + j, 1.0) for i in range(ins)]
            rows.add([*pairs, (int(offsets[b]) + j, -1.0)], 0.0, 0.0)
        end += ins * outs
    return _Places(sizes, offsets, first, end)


def _entries(values: np.ndarray) -> list[tuple[int, float]]:
    return [(int(column), float(values[column])) for column in np.flatnonzero(values)]


def _run(
    objective: list[float], rows: _Rows, binaries: int, gap: float, seconds: float, seed: int
) -> tuple[np.ndarray | None, float]:
    """Solve and return (values, relative gap), or (None, inf) where no solution exists."""
    count = len(objective)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = count, len(rows.lower)
    model.col_cost_ = np.array(objective)
    model.col_lower_, model.col_upper_ = np.zeros(count), np.ones(count)
    model.row_lower_, model.row_upper_ = np.array(rows.lower), np.array(rows.upper)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.array(rows.starts)
    model.a_matrix_.index_ = np.array(rows.columns)
    model.a_matrix_.value_ = np.array(rows.values)
    kinds = highspy.HighsVarType
    model.integrality_ = [kinds.kInteger] * binaries + [kinds.kContinuous] * (count - binaries)
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", gap)
    solver.setOptionValue("time_limit", seconds)
    solver.setOptionValue("random_seed", seed)
    solver.setOptionValue("threads", 1)  # the same answer on every machine
    solver.passModel(model)
    solver.run()
    status = solver.getModelStatus()
    if status in (
        highspy.HighsModelStatus.kInfeasible,
        highspy.HighsModelStatus.kUnboundedOrInfeasible,
    ):
        return None, np.inf
    info = solver.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        if status == highspy.HighsModelStatus.kTimeLimit:
            return None, np.inf
        raise InternalCheckError(f"HiGHS ended with {solver.modelStatusToString(status)}")
    found = float(info.mip_gap) if np.isfinite(info.mip_gap) else 0.0
    return np.array(solver.getSolution().col_value), max(0.0, found)
