"""The exact allocator: a mixed-integer linear program, solved by HiGHS.

    minimise    sum_g sum_k loss[g,k] x[g,k]
    subject to  sum_k x[g,k] = 1                              one width a group
                sum_j y[l,i,j] = x[in(l),i]                   pairs agree with both ends
                sum_i y[l,i,j] = x[out(l),j]
                lower <= fixed + sum cost[l,i,j] y[l,i,j] <= budget
                x binary, 0 <= y <= 1

With x binary the pairs y are binary by themselves. Prices for pairs of widths are what makes the
cost of a plan exact: a layer's cost depends on both of its widths (docs/methods.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np

from edgeprune.allocation.problem import Problem
from edgeprune.errors import InternalCheckError


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
    without: tuple[tuple[int, ...], ...] = (),
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
        near: a choice, and in how many groups the answer may differ from it.
        gap: relative optimality gap at which the solver may stop.
        seconds: time after which it stops with the best found.
        seed: of the solver.

    Raises:
        InternalCheckError: HiGHS fails or its answer breaks the budget.
    """
    return _solve(problem, budget, lower, without, near, gap, seconds, seed, minimise_cost=False)


def cheapest(problem: Problem, *, seconds: float = 60.0) -> Solution:
    """Return the choice of least cost whatever its loss.

    Raises:
        InternalCheckError: HiGHS fails.
    """
    solution = _solve(problem, np.inf, 0.0, (), None, 1e-6, seconds, 0, minimise_cost=True)
    if solution is None:
        raise InternalCheckError("the problem without a budget has no solution")
    return solution


def _solve(
    problem: Problem,
    budget: float,
    lower: float,
    without: tuple[tuple[int, ...], ...],
    near: tuple[tuple[int, ...], int] | None,
    gap: float,
    seconds: float,
    seed: int,
    *,
    minimise_cost: bool,
) -> Solution | None:
    sizes = [len(widths) for widths in problem.widths]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    count = int(offsets[-1])
    losses = [value for group in problem.losses for value in group]
    costs = [0.0] * count
    rows = _Rows([0], [], [], [], [])
    for g, size in enumerate(sizes):
        rows.add([(int(offsets[g]) + k, 1.0) for k in range(size)], 1.0, 1.0)
    for layer in problem.layers:
        a, b = layer.group_in, layer.group_out
        if a is None or b is None or a == b:
            group = b if a is None else a
            assert group is not None
            single = np.diag(layer.costs) if a == b else layer.costs.ravel()
            for k, value in enumerate(single):
                costs[offsets[group] + k] += float(value)
            continue
        first = len(costs)
        costs += [float(value) for value in layer.costs.ravel()]
        ins, outs = layer.costs.shape
        for i in range(ins):
            pairs = [(first + i * outs + j, 1.0) for j in range(outs)]
            rows.add([*pairs, (int(offsets[a]) + i, -1.0)], 0.0, 0.0)
        for j in range(outs):
            pairs = [(first + i * outs + j, 1.0) for i in range(ins)]
            rows.add([*pairs, (int(offsets[b]) + j, -1.0)], 0.0, 0.0)
    rows.add(
        [(column, value) for column, value in enumerate(costs) if value],
        lower - problem.fixed if lower > 0 else -highspy.kHighsInf,
        budget - problem.fixed if np.isfinite(budget) else highspy.kHighsInf,
    )
    for choice in without:
        taken = [(int(offsets[g]) + k, 1.0) for g, k in enumerate(choice)]
        rows.add(taken, -highspy.kHighsInf, len(choice) - 1.0)
    if near is not None:
        same = [(int(offsets[g]) + k, 1.0) for g, k in enumerate(near[0])]
        rows.add(same, float(len(same) - near[1]), highspy.kHighsInf)
    objective = costs if minimise_cost else losses + [0.0] * (len(costs) - count)
    values, found_gap = _run(objective, rows, count, gap, seconds, seed)
    if values is None:
        return None
    choice = tuple(int(np.argmax(values[offsets[g] : offsets[g + 1]])) for g in range(len(sizes)))
    cost = problem.cost(choice)
    if cost > budget * (1 + 1e-6) or cost < lower * (1 - 1e-6):
        raise InternalCheckError(
            f"the solver's plan costs {cost:.6g}, outside [{lower:.6g}, {budget:.6g}]"
        )
    return Solution(choice, problem.loss(choice), cost, found_gap)


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
