"""From prices and losses to widths: the problem that a job poses, and its solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from safetensors.torch import load_file
from torch import Tensor

from edgeprune.allocation.candidates import Candidates
from edgeprune.allocation.closed_loop import close_the_loop
from edgeprune.allocation.firmware_rows import FirmwareMemory
from edgeprune.allocation.problem import Problem, Resource, build_problem, flat_curves
from edgeprune.allocation.reachable import require_reachable
from edgeprune.allocation.reaching import reach
from edgeprune.allocation.removal import with_removals
from edgeprune.allocation.resources import Model, resource_rows
from edgeprune.allocation.spared import spared_layers
from edgeprune.allocation.task import Task
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.segments import as_int8, read_graph
from edgeprune.importance.meter import LossMeter
from edgeprune.importance.sensitivity import best_curves
from edgeprune.pruning.floors import group_floors
from edgeprune.records import (
    CostTable,
    GroupList,
    Losses,
    ModelProfile,
    Sensitivity,
    WidthPlan,
)
from edgeprune.sections import expanded
from edgeprune.stages import bounds
from edgeprune.stages.base import Run, recovery_settings
from edgeprune.stages.improving import REFIT, improved
from edgeprune.verify.firmware import footprints


def task_of(run: Run, groups: GroupList, table: CostTable, sensitivity: Sensitivity) -> Task:
    """Return what allocators work on."""
    scores = by_criterion(load_file(run.scores), expanded(run.job.prune.importance))
    return Task(
        run.present.model,  # as it was scored
        run.data,
        tuple(group for group in groups.groups if group.name in table.widths),
        table,
        best_curves(sensitivity.curves),
        scores,
        criterion=next(iter(scores)) if len(scores) == 1 else None,
        round_to=run.job.prune.round_to,
        normalise=run.job.prune.normalise,
        floors=group_floors(run.job.prune.floors, groups),
        kind=run.device.spec.kind,
        seed=run.job.seed,
    )


def _losses(run: Run) -> Losses:
    """Return what the losses of groups are."""
    if run.job.prune.loss == "importance":
        return "scores"
    return "of dense" if run.left is None else "of what is left"


def by_criterion(
    scores: Mapping[str, Tensor], order: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """Return criterion -> group -> scores of "criterion/group" -> scores, in the job's `order`.

    A file of tensors has an order of its own, and the first criterion ranks where one ranking
    spans groups.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, score in scores.items():
        criterion, _, group = key.partition("/")
        found.setdefault(criterion, {})[group] = score
    return {name: found[name] for name in (*order, *sorted(found)) if name in found}


def candidates_of(run: Run, table: CostTable, sensitivity: Sensitivity) -> Candidates:
    """Return what builds and measures candidate plans."""
    scores = _of_what_is_left(run, load_file(run.scores))
    return Candidates(
        run.model,
        run.data,
        run.device,
        run.precision,
        folder=run.folder.path,
        dense=run.file(run.start),
        table=table,
        rankings=rankings(run, sensitivity, scores),
        scores=scores,
        opset=run.job.export.opset,
        seed=run.job.seed,
        relative=run.job.request.share is not None,
    )


def rankings(run: Run, sensitivity: Sensitivity, scores: Mapping[str, Tensor]) -> dict[str, str]:
    """Return group -> criterion that ranks its channels: that of its best curve.

    Curves do not know reconstruction. Where it follows, and the job's criteria include the one
    that counts on it, that one ranks: in exact allocation, since the others rank by curves.
    """
    settings = run.job.prune
    follows = recovery_settings(run).reconstruct and settings.loss == "sensitivity"
    refit = follows and settings.allocation == "exact"
    return {
        name: REFIT if refit and f"{REFIT}/{name}" in scores else curve.criterion
        for name, curve in best_curves(sensitivity.curves).items()
    }


def _of_what_is_left(run: Run, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scores in which channels that earlier steps cut rank last."""
    found = {}
    for key, score in scores.items():
        kept = run.present.kept.get(key.partition("/")[2])
        if kept is not None:
            left = torch.full_like(score, -torch.inf)
            left[list(kept)] = score[list(kept)]
            score = left
        found[key] = score
    return found


def pose(
    run: Run,
    groups: GroupList,
    dense: ModelProfile,
    table: CostTable,
    sensitivity: Sensitivity | None = None,
) -> Problem:
    """Return the allocation problem of the job with all limits; None measures no loss."""
    graph = read_graph(run.file(run.start))
    if run.precision.name == "int8":
        graph = as_int8(graph)
    whole = {}
    if run.original is not None and run.profiled is not None:  # what is cut is no longer dense
        count = sum(parameter.numel() for parameter in run.original.parameters())
        whole = {"macs": run.profiled.macs, "parameters": count}
    model = Model(run.model, graph, groups.groups, dense.file_bytes, whole)
    own_memory = run.device.spec.runtime == "firmware"
    rows = resource_rows(run.job.budget, table, model, memory=not own_memory)
    if own_memory and run.board:
        rows += _firmware_rows(run, table)
    spared = spared_layers(graph)
    if sensitivity is None:
        free = dict.fromkeys((block.last for block in groups.blocks), 0.0)
        problem = build_problem(table, flat_curves(table), rows, spared)
        return with_removals(problem, groups.blocks, free)
    problem = build_problem(table, best_curves(sensitivity.curves), rows, spared)
    losses = {loss.last: loss.increase for loss in sensitivity.blocks}
    return with_removals(problem, groups.blocks, losses)


def _firmware_rows(run: Run, table: CostTable) -> tuple[Resource, ...]:
    """Return the rows of RAM and flash of int8 firmware, within the limits of job and board."""
    chip, file = run.device.spec.microcontroller, run.precision.file(run.file(run.start))
    limits = run.job.budget.memory(chip)
    if chip is None or run.precision.name != "int8" or not limits:
        return ()  # float32 code keeps its tensors on the stack: only the gates know its memory
    (dense,) = footprints(run.device, (file,), run.job.seed)
    memory = FirmwareMemory(read_integer_graph(file), table, chip.target, dense)
    rows: tuple[Resource, ...] = ()
    if "ram" in limits:
        rows += memory.ram(1024 * limits["ram"])
    if "flash" in limits:
        rows += memory.flash(1024 * limits["flash"])
    return rows


def check_budgets(run: Run, groups: GroupList, dense: ModelProfile, table: CostTable) -> None:
    """Make sure, before losses are measured, that all limits can be reached.

    Raises:
        BudgetError: they cannot.
    """
    unit = run.device.spec.unit
    limit = run.limit(table.dense_cost)
    whole = run.dense_cost(table.dense_cost)
    with bounds.told(run, groups, table):
        require_reachable(pose(run, groups, dense, table), limit, unit, whole)


def allocate(
    run: Run,
    groups: GroupList,
    dense: ModelProfile,
    table: CostTable,
    sensitivity: Sensitivity,
    tighter: float = 1.0,
) -> WidthPlan:
    """Find the widths in a closed loop with the device, for 1 / `tighter` of the budget."""
    table = run.present.table(table)
    candidates = candidates_of(run, table, sensitivity)
    candidates = replace(candidates, blocks=groups.blocks)
    problem = pose(run, groups, dense, table, sensitivity)
    limit = run.limit(table.dense_cost) / tighter
    with run.console.stage("Allocating widths") as stage:
        if run.job.prune.allocation != "exact":
            plan = reach(
                run.job.prune.allocation,
                task_of(run, groups, table, sensitivity),
                limit,
                measure=candidates.measure,
                note=stage.note,
            )
            unheeded = tuple(dict.fromkeys(row.name for row in problem.resources))
            return plan.model_copy(update={"unheeded": unheeded})
        with bounds.told(run, groups, table):
            plan = close_the_loop(
                problem,
                limit,
                kept=candidates.planned,
                measure=candidates.measure,
                unit=run.device.spec.unit,
                dense_cost=run.dense_cost(table.dense_cost),
                seed=run.job.seed,
                note=stage.note,
            )
        plan = plan.model_copy(update={"losses": _losses(run)})
        if run.job.prune.loss != "sensitivity" or run.left is not None:
            return plan  # the sum is no loss of the dense model's
        meter = LossMeter(run.model, run.data, run.job.prune.calibration_samples)
        if run.job.prune.polish:
            scores = task_of(run, groups, table, sensitivity).scores
            plan = improved(run, groups, candidates, problem, scores, meter, plan, stage)
        kept = {name: group.kept for name, group in plan.groups.items()}
        whole = meter.increase(kept, plan.removed)
        stage.note(f"loss of the whole plan {whole:+.4f}, sum over groups {plan.loss:+.4f}")
        return plan.model_copy(update={"whole_loss": whole})
