"""The stage that allocates: the job's limits and prices become a problem, its answer a plan."""

from __future__ import annotations

from safetensors.torch import load_file
from torch import Tensor

from edgeprune.allocation.candidates import Candidates
from edgeprune.allocation.closed_loop import close_the_loop
from edgeprune.allocation.problem import Problem, build_problem, flat_curves
from edgeprune.allocation.reachable import require_reachable
from edgeprune.allocation.reaching import reach
from edgeprune.allocation.removal import with_removals
from edgeprune.allocation.resources import Model, resource_rows
from edgeprune.allocation.task import Task
from edgeprune.export.segments import as_int8, read_graph
from edgeprune.importance.sensitivity import LossMeter, best_curves
from edgeprune.records import CostTable, GroupList, ModelProfile, Sensitivity, WidthPlan
from edgeprune.stages import Run, criteria_of


def task_of(run: Run, groups: GroupList, table: CostTable, sensitivity: Sensitivity) -> Task:
    """Return what allocators work on."""
    scores: dict[str, dict[str, Tensor]] = {}
    for key, score in load_file(run.file("scores.safetensors")).items():
        criterion, _, group = key.partition("/")
        scores.setdefault(criterion, {})[group] = score
    names = criteria_of(run)
    return Task(
        run.model,
        run.data,
        tuple(group for group in groups.groups if group.name in table.widths),
        table,
        best_curves(sensitivity.curves),
        {name: scores[name] for name in names},
        criterion=names[0] if len(names) == 1 else None,
        round_to=run.job.prune.round_to,
        kind=run.device.spec.kind,
        seed=run.job.seed,
    )


def pose(
    run: Run,
    groups: GroupList,
    dense: ModelProfile,
    table: CostTable,
    sensitivity: Sensitivity | None = None,
) -> Problem:
    """Return the allocation problem of the job with all limits; None measures no loss."""
    graph = read_graph(run.file("dense.onnx"))
    if run.precision.name == "int8":
        graph = as_int8(graph)
    model = Model(run.model, graph, groups.groups, dense.file_bytes)
    own_memory = run.device.spec.runtime == "firmware"
    rows = resource_rows(run.job.budget, table, model, memory=not own_memory)
    if sensitivity is None:
        free = dict.fromkeys((block.last for block in groups.blocks), 0.0)
        return with_removals(build_problem(table, flat_curves(table), rows), groups.blocks, free)
    problem = build_problem(table, best_curves(sensitivity.curves), rows)
    losses = {loss.last: loss.increase for loss in sensitivity.blocks}
    return with_removals(problem, groups.blocks, losses)


def check_budgets(run: Run, groups: GroupList, dense: ModelProfile, table: CostTable) -> None:
    """Make sure, before losses are measured, that all limits can be reached.

    Raises:
        BudgetError: they cannot.
    """
    unit = run.device.spec.unit
    limit = run.job.request.limit(table.dense_cost, unit)
    require_reachable(pose(run, groups, dense, table), limit, unit)


def allocate(
    run: Run,
    groups: GroupList,
    dense: ModelProfile,
    table: CostTable,
    sensitivity: Sensitivity,
    tighter: float = 1.0,
) -> WidthPlan:
    """Find the widths in a closed loop with the device, for 1 / `tighter` of the budget."""
    best = best_curves(sensitivity.curves)
    problem = pose(run, groups, dense, table, sensitivity)
    request = run.job.request
    limit = request.limit(table.dense_cost, run.device.spec.unit) / tighter
    with run.console.stage("Allocating widths") as stage:
        candidates = Candidates(
            run.model,
            run.data,
            run.device,
            run.precision,
            folder=run.folder.path,
            table=table,
            curves=best,
            scores=load_file(run.file("scores.safetensors")),
            opset=run.job.export.opset,
            seed=run.job.seed,
            relative=request.share is not None,
            blocks=groups.blocks,
        )
        if run.job.prune.allocation != "exact":
            return reach(
                run.job.prune.allocation,
                task_of(run, groups, table, sensitivity),
                limit,
                measure=candidates.measure,
                note=stage.note,
            )
        plan = close_the_loop(
            problem,
            limit,
            kept=candidates.planned,
            measure=candidates.measure,
            unit=run.device.spec.unit,
            dense_cost=table.dense_cost,
            seed=run.job.seed,
            note=stage.note,
        )
        meter = LossMeter(run.model, run.data, run.job.prune.calibration_samples)
        kept = {name: group.kept for name, group in plan.groups.items()}
        whole = meter.increase(kept, plan.removed)
        stage.note(f"loss of the whole plan {whole:+.4f}, sum over groups {plan.loss:+.4f}")
        return plan.model_copy(update={"whole_loss": whole})
