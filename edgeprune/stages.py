"""The bodies of the job's stages; pipeline.py puts them in order."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeprune.allocation.candidates import Candidates
from edgeprune.allocation.closed_loop import close_the_loop
from edgeprune.allocation.problem import Problem, build_problem, flat_curves
from edgeprune.allocation.reachable import require_reachable
from edgeprune.allocation.reaching import reach
from edgeprune.allocation.resources import Model, resource_rows
from edgeprune.allocation.task import Task
from edgeprune.cost.table import build_table
from edgeprune.data import Data, first_batches
from edgeprune.devices.protocol import Device
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.onnx_graph import export
from edgeprune.export.precision import Precision
from edgeprune.export.segments import as_int8, read_graph
from edgeprune.importance.scores import score_channels
from edgeprune.importance.sensitivity import best_curves, importance_curves, sensitivity_curves
from edgeprune.job import Job
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.shrink import rebuild, shrink
from edgeprune.records import (
    Artifact,
    CostTable,
    GroupList,
    ModelProfile,
    Recovered,
    Sensitivity,
    SensitivityCurve,
    Shrunk,
    Verification,
    WidthPlan,
)
from edgeprune.recovery.finetuning import recover
from edgeprune.report.console import Console
from edgeprune.store import RunFolder, atomic
from edgeprune.verify.evidence import Subject, gather
from edgeprune.verify.gates import judge

PROOF_SAMPLES = 64


@dataclass
class Run:
    """What all stages share; `attempt` stands before the names of files that an attempt owns."""

    job: Job
    model: nn.Module
    data: Data
    device: Device
    folder: RunFolder
    console: Console
    attempt: str = ""

    def file(self, name: str) -> Path:
        """Return the path of a file in the run folder."""
        return self.folder.file(name)

    def own(self, name: str) -> Path:
        """Return the path of a file of this attempt."""
        return self.folder.file(self.attempt + name)

    @cached_property
    def precision(self) -> Precision:
        """In which form exported models go to the device."""
        return Precision.of(self.job, self.data)

    def exported(self, name: str) -> tuple[str, ...]:
        """Return the names of the exported file `name` and of its form for the device."""
        return tuple(dict.fromkeys((name, self.precision.file(Path(name)).name)))


def group(run: Run) -> GroupList:
    """Find and prove the channel groups."""
    with run.console.stage("Finding channel groups") as stage:
        found = find_groups(run.model, run.data.example, run.job.prune.keep)
        stage.note(f"{len(found.groups)} groups to cut, {len(found.skipped)} left alone")
    if not found.groups:
        reasons = "; ".join(f"{skipped.name}: {skipped.reason}" for skipped in found.skipped)
        raise UnsupportedModelError(
            f"the model has no group of channels that can be cut ({reasons})"
        )
    return found


def profile(run: Run) -> ModelProfile:
    """Export the dense model and profile it."""
    with run.console.stage(f"Profiling the dense model on {run.device.spec.name}") as stage:
        stage.note("exporting")
        path = run.file("dense.onnx")
        export(run.model, run.data.example, path, opset=run.job.export.opset)
        run.precision.write(path)
        return profile_model(
            run.device,
            run.precision.file(path),
            name=run.job.name,
            layers=path,
            seed=run.job.seed,
            note=stage.note,
        )


def price(run: Run, groups: GroupList, dense: ModelProfile) -> CostTable:
    """Measure the cost table."""
    with run.console.stage("Pricing layers") as stage:
        return build_table(
            run.device,
            read_graph(run.file("dense.onnx")),
            groups.groups,
            dense,
            seed=run.job.seed,
            precision=run.precision,
            report=lambda what, done, total: stage.update(done, total, what),
            warn=run.console.warning,
        )


def criteria_of(run: Run) -> tuple[str, ...]:
    """Return the importance criteria that the job's setting stands for."""
    name = run.job.prune.importance
    return ("taylor", "l2") if name == "auto" else (name,)


def weigh(run: Run, groups: GroupList, table: CostTable) -> Sensitivity:
    """Score channels and measure what each width costs in loss."""
    settings = run.job.prune
    criteria = criteria_of(run)
    with run.console.stage("Measuring sensitivity") as stage:
        scores = {
            name: score_channels(
                run.model,
                run.data,
                groups.groups,
                name,
                samples=settings.calibration_samples,
                seed=run.job.seed,
                fused=settings.fused,
            )
            for name in criteria
        }
        with atomic(run.file("scores.safetensors")) as partial:
            save_file(
                {f"{c}/{g}": s.contiguous() for c, by in scores.items() for g, s in by.items()},
                partial,
            )
        if settings.loss == "importance":
            first = criteria[0]
            return Sensitivity(curves=importance_curves(table.widths, scores[first], first))
        curves = sensitivity_curves(
            run.model,
            run.data,
            table.widths,
            scores,
            samples=settings.calibration_samples,
            progress=stage.update,
        )
        return Sensitivity(curves=curves)


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
    curves: Mapping[str, SensitivityCurve] | None = None,
) -> Problem:
    """Return the allocation problem of the job: losses of `curves` (None: no loss), all limits."""
    graph = read_graph(run.file("dense.onnx"))
    if run.precision.name == "int8":
        graph = as_int8(graph)
    model = Model(run.model, graph, groups.groups, dense.file_bytes)
    own_memory = run.device.spec.runtime == "firmware"
    rows = resource_rows(run.job.budget, table, model, memory=not own_memory)
    return build_problem(table, curves or flat_curves(table), rows)


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
    problem = pose(run, groups, dense, table, best)
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
        )
        if run.job.prune.allocation != "exact":
            return reach(
                run.job.prune.allocation,
                task_of(run, groups, table, sensitivity),
                limit,
                measure=candidates.measure,
                note=stage.note,
            )
        return close_the_loop(
            problem,
            limit,
            kept=candidates.planned,
            measure=candidates.measure,
            unit=run.device.spec.unit,
            dense_cost=table.dense_cost,
            seed=run.job.seed,
            note=stage.note,
        )


def cut(run: Run, plan: WidthPlan) -> Shrunk:
    """Shrink the dense model as planned, proved on real inputs."""
    with run.console.stage("Shrinking") as stage:
        taken = first_batches(run.data.calibration, PROOF_SAMPLES, "calibration")
        samples = [inputs for inputs, _ in taken]
        slim = shrink(run.model, run.data.example, plan, samples)
        _save_state(slim, run.own("shrunk.safetensors"))
        before, after = (sum(p.numel() for p in m.parameters()) for m in (run.model, slim))
        stage.note(f"{before:,} -> {after:,} parameters, equal to the masked model")
    checked = sum(len(inputs[0]) for inputs in samples)
    return Shrunk(parameters=after, dense_parameters=before, checked_samples=checked)


def win_back(run: Run, plan: WidthPlan) -> Recovered:
    """Recover accuracy; the best state goes into recovered.safetensors."""
    with run.console.stage("Recovering accuracy") as stage:
        slim = rebuild(run.model, run.data.example, plan, load_file(run.own("shrunk.safetensors")))
        result = recover(
            slim,
            run.model,
            run.data,
            run.job.recover,
            kept={name: group.kept for name, group in plan.groups.items()},
            seed=run.job.seed,
            progress=stage.update,
        )
        if result.reconstruction and result.reconstruction.left_alone:
            alone = ", ".join(name for name, _ in result.reconstruction.left_alone)
            stage.note(f"not reconstructed: {alone}")
        _save_state(result.model, run.own("recovered.safetensors"))
    return Recovered(recalibrated=result.recalibrated, best=result.best, history=result.history)


def slim_model(run: Run, plan: WidthPlan) -> nn.Module:
    """Return the recovered slim model of a run."""
    state = load_file(run.own("recovered.safetensors"))
    return rebuild(run.model, run.data.example, plan, state)


def write(run: Run, plan: WidthPlan) -> Artifact:
    """Export the recovered model with what is known of it."""
    with run.console.stage("Exporting"):
        metadata = {
            "job": run.job.name,
            "device": run.device.spec.name,
            "budget": run.job.budget.asked,
            "plan": plan.digest,
            "seed": str(run.job.seed),
            "version": importlib.metadata.version("edgeprune"),
        }
        artifact = export(
            slim_model(run, plan),
            run.data.example,
            run.own("slim.onnx"),
            opset=run.job.export.opset,
            metadata=metadata,
        )
        run.precision.write(run.own("slim.onnx"))
        return artifact


def verify(run: Run, plan: WidthPlan, dense: ModelProfile, recovered: Recovered) -> Verification:
    """Take all the evidence about the exported model and judge it."""
    spec = run.device.spec
    with run.console.stage("Verifying") as stage:
        evidence, profiled = gather(
            run.job,
            run.data,
            run.device,
            run.precision,
            dense=Subject(run.model, run.file("dense.onnx"), dense),
            slim=Subject(slim_model(run, plan), run.own("slim.onnx")),
            recalibrated=recovered.recalibrated,
            note=stage.note,
        )
    verdict = judge(
        run.job,
        plan,
        evidence,
        device=spec.name,
        kind=spec.figure,
        unit=spec.unit,
        metric=run.data.metric_name,
        on_test=run.data.test is not None,
        functional_only=spec.functional_only,
        measured_by=spec.measured_by,
        note=spec.note,
    )
    return Verification(verdict=verdict, slim_profile=profiled)


def _save_state(model: nn.Module, path: Path) -> None:
    state = {
        name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()
    }
    with atomic(path) as partial:
        save_file(state, partial)
