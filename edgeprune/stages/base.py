"""What all stages share, and the bodies of the short ones."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeprune.data import Data, first_batches
from edgeprune.devices.protocol import Device
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.onnx_graph import export
from edgeprune.export.precision import Precision
from edgeprune.identity import origin_of, state_digest
from edgeprune.importance.shared import Merge, Shared, digest_of, require_same
from edgeprune.job import Job
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning import unseen
from edgeprune.pruning.blocks import find_blocks
from edgeprune.pruning.floors import group_floors
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.remainder import Remainder
from edgeprune.pruning.shrink import rebuild, shrink
from edgeprune.pruning.tracing import trains
from edgeprune.records import (
    Artifact,
    GroupList,
    ModelProfile,
    Prepared,
    Recovered,
    ResidualBlock,
    ScheduleHistory,
    Shrunk,
    Verification,
    WidthPlan,
)
from edgeprune.recovery.finetuning import recover
from edgeprune.recovery.regularisation import require_plain
from edgeprune.recovery.schedules import rewind
from edgeprune.report import figures
from edgeprune.report.console import Console
from edgeprune.sections import RecoverSection
from edgeprune.stages import preparation
from edgeprune.store import RunFolder, atomic
from edgeprune.transforms.masks import hold_zeros, release
from edgeprune.verify.evidence import Subject, gather
from edgeprune.verify.gates import DENSE, NESTED_DENSE, judge

PROOF_SAMPLES = 64
SAME = (0.9, 1 / 0.9)  # a cost over an earlier one, where the speed has not changed
EARLY = "early.safetensors"  # to which schedule lottery rewinds


@dataclass(frozen=True)
class Given:
    """What a run may be given besides its job.

    Args:
        initial: state of the model before it was trained, for schedule `lottery`.
        shared: scores of data holders, which stand in for those of the job's own data.
        merge: how they are merged.
    """

    initial: Mapping[str, Tensor] | None = None
    shared: tuple[Shared, ...] = ()
    merge: Merge = "mean"

    def identity(self) -> dict[str, str]:
        """Return what of it the results of a run depend on, as name -> text."""
        found = {"initial weights": state_digest(self.initial)} if self.initial else {}
        if self.shared:
            found["shared scores"] = f"{self.merge} of {digest_of(self.shared)}"
        return found


@dataclass
class Run:
    """What all stages share.

    `attempt` stands before the names of files that an attempt, or a step of the schedule, owns.
    `left` is what earlier steps left of the model, and `training` how long this one recovers.
    `model` is what is cut; where it was `prepared` before, `original` is the dense model, and
    `profiled` its profile. `nested`: what is made ships into a folder inside that of the run.
    `board`: whether plans are held to the memory of the board that the device is.
    """

    job: Job
    model: nn.Module
    data: Data
    device: Device
    folder: RunFolder
    console: Console
    attempt: str = ""
    given: Given = field(default_factory=Given)
    step: str = ""
    left: Remainder | None = None
    training: int | None = None
    original: nn.Module | None = None
    prepared: Prepared | None = None
    profiled: ModelProfile | None = None
    nested: bool = False
    board: bool = True

    @property
    def dense(self) -> nn.Module:
        """The dense model, which everything is compared with."""
        return self.model if self.original is None else self.original

    @property
    def start(self) -> str:
        """Name of the exported file of the model that is cut."""
        return "dense.onnx" if self.original is None else "base.onnx"

    def limit(self, cost: float) -> float:
        """Return what the slim model may cost, from the `cost` of the model that is cut."""
        return self.job.request.limit(self.dense_cost(cost), self.device.spec.unit)

    def dense_cost(self, cost: float) -> float:
        """Return what the dense model costs, from the `cost` of the model that is cut."""
        gain = self.prepared.gain if self.prepared else None
        return cost * (gain.median if gain else 1.0)

    @property
    def present(self) -> Remainder:
        """The model as this step finds it."""
        return self.left or Remainder(self.model)

    @property
    def scores(self) -> Path:
        """Where the scores of this step are kept; further attempts share them."""
        return self.folder.file(f"{self.step}scores.safetensors")

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
    """Find and prove the channel groups.

    Raises:
        UsageError: a floor names no group, or scores of data holders are of another model.
    """
    with run.console.stage("Finding channel groups") as stage:
        found = find(run.job, run.model, run.data, none=run.original is not None)
        tell_of_unseen(found, run.console)
        found = found.model_copy(update={"blocks": branches(run, found)})
        # Faults are told before anything is measured.
        group_floors(run.job.prune.floors, found)
        if run.given.shared:
            require_same(run.given.shared, origin_of(run.job, run.model, found))
        if run.job.regularise is not None:
            require_plain(run.model, found.groups, run.job.regularise.kind)
        stage.note(
            f"{len(found.groups)} groups to cut, {len(found.skipped)} left alone, "
            f"{len(found.blocks)} branches that can go"
        )
    return found


def tell_of_unseen(found: GroupList, console: Console) -> None:
    """Warn of layers that tracing does not lead to: they may be most of the model."""
    for line in unseen.told([one for one in found.skipped if one.reason in unseen.REASONS]):
        console.warning(f"left alone: {line}")


def branches(run: Run, found: GroupList) -> tuple[ResidualBlock, ...]:
    """Return the branches that the job may remove as a whole; none where it removes none."""
    settings = run.job.prune
    if not settings.blocks or settings.allocation != "exact" or run.job.schedule.kind != "one_shot":
        return ()
    stay = (*settings.keep, *run.job.guards.layers, *settings.floors)
    return find_blocks(run.model, run.data.example, found.groups, stay)


def find(job: Job, model: nn.Module, data: Data, *, none: bool = False) -> GroupList:
    """Return the channel groups of `model` that may be cut; there may be `none`.

    Raises:
        UnsupportedModelError: there are none.
    """
    found = find_groups(model, data.example, job.untouched)
    if not found.groups and not none:
        reasons = "; ".join(unseen.told(found.skipped)) or "it has no layer with channels"
        raise UnsupportedModelError(
            f"the model has no group of channels that can be cut ({reasons})"
        )
    return found


def profile(run: Run) -> ModelProfile:
    """Export the model that is cut and profile it."""
    which = "dense" if run.original is None else "prepared"
    with run.console.stage(f"Profiling the {which} model on {run.device.spec.name}") as stage:
        stage.note("exporting")
        path = run.file(run.start)
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


def cut(run: Run, plan: WidthPlan) -> Shrunk:
    """Shrink the model as planned, proved on real inputs; `lottery` then rewinds its weights."""
    present = run.present
    with run.console.stage("Shrinking") as stage:
        taken = first_batches(run.data.calibration, PROOF_SAMPLES, "calibration")
        samples = [inputs for inputs, _ in taken]
        slim = shrink(present.model, run.data.example, present.relative(plan), samples)
        if run.job.schedule.kind == "lottery":
            kept = {name: group.kept for name, group in plan.groups.items()}
            slim = rewind(run.model, run.data.example, kept, load_file(run.file(EARLY)))
        save_state(slim, run.own("shrunk.safetensors"))
        before, after = (sum(p.numel() for p in m.parameters()) for m in (run.dense, slim))
        stage.note(f"{before:,} -> {after:,} parameters, equal to the masked model")
    checked = sum(len(inputs[0]) for inputs in samples)
    return Shrunk(parameters=after, dense_parameters=before, checked_samples=checked)


def win_back(run: Run, plan: WidthPlan) -> Recovered:
    """Recover accuracy; the best state goes into recovered.safetensors."""
    with run.console.stage("Recovering accuracy") as stage:
        slim = rebuild(run.model, run.data.example, plan, load_file(run.own("shrunk.safetensors")))
        now = run.present.relative(plan)
        masks = run.prepared.masks if run.prepared else None
        hold_zeros(slim, masks.held if masks else ())
        result = recover(
            slim,
            run.dense,
            run.data,
            recovery_settings(run),
            original=run.present.model,
            kept={name: group.kept for name, group in now.groups.items() if group.after},
            seed=run.job.seed,
            progress=stage.update,
        )
        if result.reconstruction and result.reconstruction.left_alone:
            alone = ", ".join(name for name, _ in result.reconstruction.left_alone)
            stage.note(f"not reconstructed: {alone}")
        if not trains(slim) and run.job.recover.steps:
            run.console.info("not trained: every parameter of the model is frozen")
        save_state(release(result.model), run.own("recovered.safetensors"))
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


def verify(
    run: Run,
    plan: WidthPlan,
    dense: ModelProfile,
    recovered: Recovered,
    schedule: ScheduleHistory | None = None,
) -> Verification:
    """Take all the evidence about the exported model and judge it."""
    spec = run.device.spec
    with run.console.stage("Verifying") as stage:
        evidence, profiled = gather(
            run.job,
            run.data,
            run.device,
            run.precision,
            dense=Subject(run.dense, run.file("dense.onnx"), dense),
            slim=Subject(slim_model(run, plan), run.own("slim.onnx")),
            recalibrated=recovered.recalibrated,
            note=stage.note,
        )
    _tell_of_another_speed(run, dense.total, evidence.dense.cost)
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
        dense=NESTED_DENSE if run.nested else DENSE,
        note=spec.note,
        schedule=schedule,
        chip=spec.microcontroller,
    )
    if run.prepared:
        files = (run.precision.file(f) for f in (run.file("dense.onnx"), run.own("slim.onnx")))
        verdict = preparation.reported(verdict, run.prepared, *files)
    return Verification(verdict=verdict, slim_profile=profiled)


def _tell_of_another_speed(run: Run, before: float, now: float) -> None:
    """Warn where the dense model costs another time than when it was profiled."""
    spec = run.device.spec
    if spec.figure == "measured" and not SAME[0] <= now / before <= SAME[1]:
        run.console.warning(
            f"the dense model took {figures.cost(before, spec.unit)} when it was profiled and "
            f"{figures.cost(now, spec.unit)} in the verdict: another speed, or other programs. "
            "Shares and the verdict hold; times told by the allocation are those of the profile"
        )


def recovery_settings(run: Run) -> RecoverSection:
    """Return [recover] as it is for this step: what would fill zeros or undo a rewind is left out.

    The model of a lottery starts anew, and masked weights stay zero. A frozen model is not trained.
    """
    changes: dict[str, object] = {}
    if run.training is not None:
        changes["steps"] = run.training
    masked = run.prepared is not None and run.prepared.masks is not None
    if masked or run.job.schedule.kind == "lottery":
        changes["reconstruct"] = False
    if not trains(run.model):
        changes["steps"] = 0
    return run.job.recover.model_copy(update=changes)


def save_state(model: nn.Module, path: Path) -> None:
    """Write the state of `model` to `path`."""
    state = {
        name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()
    }
    with atomic(path) as partial:
        save_file(state, partial)
