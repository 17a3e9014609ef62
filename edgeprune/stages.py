"""The bodies of the job's stages; pipeline.py puts them in order."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeprune.allocation.closed_loop import Measured, close_the_loop
from edgeprune.allocation.problem import build_problem
from edgeprune.cost.table import build_table
from edgeprune.data import Data, first_batches
from edgeprune.devices.protocol import Device
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.onnx_graph import describe, export
from edgeprune.export.precision import Precision
from edgeprune.export.segments import read_graph
from edgeprune.importance.scores import keep_best, score_channels
from edgeprune.importance.sensitivity import best_curves, importance_curves, sensitivity_curves
from edgeprune.job import Job
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.timing import compare
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.shrink import rebuild, shrink
from edgeprune.records import (
    Artifact,
    CostTable,
    Figures,
    GroupList,
    ModelProfile,
    PlannedGroup,
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
from edgeprune.verify.accuracy import Accuracy, evaluate
from edgeprune.verify.firmware import firmware_parity, footprints
from edgeprune.verify.gates import Evidence, judge
from edgeprune.verify.inference import numeric_device
from edgeprune.verify.parity import parity

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


def weigh(run: Run, groups: GroupList, table: CostTable) -> Sensitivity:
    """Score channels and measure what each width costs in loss."""
    settings = run.job.prune
    criteria = ("taylor", "l2") if settings.importance == "auto" else (settings.importance,)
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


def allocate(
    run: Run, table: CostTable, sensitivity: Sensitivity, tighter: float = 1.0
) -> WidthPlan:
    """Solve for the widths in a closed loop with the device, for 1 / `tighter` of the budget."""
    best = best_curves(sensitivity.curves)
    scores = load_file(run.file("scores.safetensors"))
    problem = build_problem(table, best)
    request = run.job.request
    limit = request.limit(table.dense_cost, run.device.spec.unit) / tighter
    with run.console.stage("Allocating widths") as stage:

        def measure(groups: dict[str, PlannedGroup]) -> Measured:
            return _measure_plan(run, groups, table.dense_cost, relative=request.share is not None)

        return close_the_loop(
            problem,
            limit,
            kept=lambda widths: _planned(widths, table, best, scores),
            measure=measure,
            unit=run.device.spec.unit,
            dense_cost=table.dense_cost,
            seed=run.job.seed,
            note=stage.note,
        )


def _planned(
    widths: Mapping[str, int],
    table: CostTable,
    best: Mapping[str, SensitivityCurve],
    scores: Mapping[str, Tensor],
) -> dict[str, PlannedGroup]:
    return {
        name: PlannedGroup(
            before=table.widths[name][-1],
            after=width,
            kept=keep_best(scores[f"{best[name].criterion}/{name}"], width),
            criterion=best[name].criterion,
        )
        for name, width in widths.items()
    }


def _measure_plan(
    run: Run, groups: dict[str, PlannedGroup], dense_cost: float, *, relative: bool
) -> Measured:
    """Cut, export and time a plan against the dense model.

    A relative budget is judged by the paired ratio alone; an absolute one by the dense cost of the
    same minutes, since the machine may have drifted since the profile was taken.
    """
    plan = WidthPlan(
        groups=groups, budget=0.0, unit=run.device.spec.unit, predicted=0.0, predicted_error=0.0,
        corrected=0.0, gap=0.0, loss=0.0,
    )  # fmt: skip
    candidate = run.file("candidate.onnx")
    export(
        shrink(run.model, run.data.example, plan),
        run.data.example,
        candidate,
        opset=run.job.export.opset,
    )
    run.precision.write(candidate)
    comparison, _ = compare(
        run.device,
        run.precision.file(run.file("dense.onnx")),
        run.precision.file(candidate),
        half_width=0.006,
        seconds=10,
        seed=run.job.seed,
    )
    base = dense_cost if relative else comparison.first_cost
    return Measured(base / comparison.median, base / comparison.high, base / comparison.low)


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
            "budget": run.job.request.text,
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
    device, spec, job = run.device, run.device.spec, run.job
    first, second = run.file("dense.onnx"), run.own("slim.onnx")
    files = run.precision.file(first), run.precision.file(second)
    dense_artifact, slim_artifact = describe(first), describe(files[1])
    numeric = numeric_device(device)
    integers = numeric_device(device, exact_integers=run.precision.name == "int8")
    slim = slim_model(run, plan)
    with run.console.stage("Verifying") as stage:
        stage.note("speed, in interleaved pairs")
        comparison, environment = compare(
            device,
            *files,
            half_width=0.004,
            seconds=30.0,
            seed=job.seed + 1,
            note=stage.note,
        )
        stage.note("profile of the slim model")
        profiled = profile_model(
            device, files[1], name=f"{job.name} (slim)", layers=second, seed=job.seed
        )
        stage.note("parity of torch and the runtime")
        agreement = parity(slim, numeric, second, describe(second), run.data)
        firmware, memory = None, None
        if spec.runtime == "firmware":
            stage.note("memory of the firmware")
            memory = footprints(device, files, job.seed)
            if run.precision.name == "int8":
                stage.note("outputs of the firmware")
                firmware = firmware_parity(device, integers, files[1], slim_artifact, run.data)
        accuracies: list[Accuracy] = []
        for name, where, path, artifact in (
            ("dense", numeric, first, dense_artifact),
            ("slim", integers, files[1], slim_artifact),
        ):
            stage.note(f"accuracy of the {name} file in the runtime")
            accuracies.append(evaluate(where, path, artifact, run.data))
    figures = [
        Figures(
            cost=cost,
            parameters=sum(p.numel() for p in model.parameters()),
            macs=one.macs,
            accuracy=accuracy.value,
            file_bytes=artifact.file_bytes,
            peak_activation_bytes=one.peak_activation_bytes,
        )
        for cost, model, one, accuracy, artifact in (
            (comparison.first_cost, run.model, dense, accuracies[0], dense_artifact),
            (
                comparison.first_cost / comparison.median,
                slim,
                profiled,
                accuracies[1],
                slim_artifact,
            ),
        )
    ]
    if memory:
        figures = [
            one.model_copy(update={"footprint": found, "file_bytes": file.stat().st_size})
            for one, found, file in zip(figures, memory, files, strict=True)
        ]
    evidence = Evidence(
        dense=figures[0],
        slim=figures[1],
        comparison=comparison,
        parity=agreement,
        dense_accuracy=accuracies[0],
        slim_accuracy=accuracies[1],
        recalibrated_accuracy=recovered.recalibrated,
        environment=environment,
        firmware=firmware,
    )
    verdict = judge(
        job,
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
