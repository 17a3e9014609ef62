"""The job: profile -> price -> allocate -> shrink -> recover -> export -> verify -> ship."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from edgeprune import stages
from edgeprune.allocation.registry import allocator
from edgeprune.data import Data
from edgeprune.devices.opening import open_device
from edgeprune.devices.protocol import Device
from edgeprune.identity import identity_of, versions
from edgeprune.job import Job
from edgeprune.loading import check_finite, check_runs, load_data, load_model, seed_everything
from edgeprune.records import (
    Artifact,
    CostTable,
    GroupList,
    ModelProfile,
    Recovered,
    Sensitivity,
    Shrunk,
    Verdict,
    Verification,
    WidthPlan,
)
from edgeprune.report.console import Console
from edgeprune.sections import BudgetSection
from edgeprune.ship import require_ours, ship
from edgeprune.store import RunFolder
from edgeprune.views import collect


@dataclass(frozen=True)
class Result:
    """What a run leaves: the slim model, its file, its verdict and its plan.

    Args:
        model: the recovered slim torch model, in eval mode.
        artifact: the exported file, where it was shipped to.
        verdict: everything claimed of it.
        plan: the width of every group.
        folder: where everything was shipped to.
    """

    model: nn.Module
    artifact: Artifact
    verdict: Verdict
    plan: WidthPlan
    folder: Path


@dataclass(frozen=True)
class Planned:
    """What `plan` finds without changing anything."""

    groups: GroupList
    profile: ModelProfile
    table: CostTable
    plan: WidthPlan


def load(job: Job, folder: Path) -> tuple[nn.Module, Data]:
    """Return the job's model and data, checked to fit each other."""
    model, data = load_model(job, folder), load_data(job, folder)
    check_runs(model, data)
    return model, data


def run(
    job: Job,
    model: nn.Module,
    data: Data,
    device: Device,
    out: Path,
    *,
    resume: bool = False,
    console: Console,
) -> Result:
    """Do the whole job and ship into `out`; with `resume`, go on where an earlier run stopped.

    Raises:
        EdgepruneError: any of its kinds; finished stages stay in `out`/.run.
    """
    seed_everything(job.seed)
    job.request.limit(1.0, device.spec.unit)  # a budget in another unit is told before any work
    require_ours(out)
    with RunFolder(out, identity_of(job, model, data, device), resume=resume) as folder:
        this = stages.Run(job, model, data, device, folder, console)
        groups, dense, table, curves = _prices(this)
        made = _make(this, groups, dense, table, curves)
        budget = made.verification.verdict.budget
        if not budget.met and allocator(job.prune.allocation).steerable:
            tighter = budget.reached / made.plan.corrected
            console.warning(
                f"its cost is {100 * budget.reached / budget.limit:.1f} % of the budget: "
                "the device has changed its speed since widths were allocated; trying once more"
            )
            again = _make(replace(this, attempt="again-"), groups, dense, table, curves, tighter)
            made = min(made, again, key=_shortfall)
        with console.stage("Shipping"):
            ship(
                out,
                verdict=made.verification.verdict,
                plan=made.plan,
                table=table,
                curves=curves.curves,
                history=made.recovered.history,
                skipped=groups.skipped,
                dense_profile=dense,
                slim_profile=made.verification.slim_profile,
                model=made.file,
                artifact=made.artifact,
                versions=versions(),
                licence=job.model.licence,
                job_title=job.name,
                integer_model=made.integer_file,
                chip=device.spec.microcontroller,
                views=collect(
                    model,
                    made.model,
                    made.plan,
                    groups,
                    load_file(folder.file("scores.safetensors")),
                ),
            )
        shipped = made.artifact.model_copy(update={"path": str(out / "model.onnx")})
        return Result(made.model, shipped, made.verification.verdict, made.plan, out)


def plan_only(job: Job, model: nn.Module, data: Data, device: Device, console: Console) -> Planned:
    """Profile, price and allocate; nothing is kept."""
    seed_everything(job.seed)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        identity = identity_of(job, model, data, device)
        with RunFolder(Path(scratch), identity, resume=False) as folder:
            this = stages.Run(job, model, data, device, folder, console)
            groups, dense, table, curves = _prices(this)
            plan = _allocate(this, groups, dense, table, curves)
            return Planned(groups, dense, table, plan)


def _prices(this: stages.Run) -> tuple[GroupList, ModelProfile, CostTable, Sensitivity]:
    """Profile and price: what the device says, and what each width costs in loss."""
    do, skip, files = this.folder.stage, this.console.skipped, this.exported("dense.onnx")
    groups = do("1-groups", GroupList, lambda: stages.group(this), (), skip)
    dense = do("2-profile", ModelProfile, lambda: stages.profile(this), files, skip)
    table = do("3-price", CostTable, lambda: stages.price(this, groups, dense), (), skip)
    stages.check_budgets(this, groups, dense, table)
    curves = do(
        "4-weigh",
        Sensitivity,
        lambda: stages.weigh(this, groups, table),
        ("scores.safetensors",),
        skip,
    )
    return groups, dense, table, curves


def _allocate(
    this: stages.Run,
    groups: GroupList,
    dense: ModelProfile,
    table: CostTable,
    curves: Sensitivity,
    tighter: float = 1.0,
) -> WidthPlan:
    def work() -> WidthPlan:
        return stages.allocate(this, groups, dense, table, curves, tighter)

    return this.folder.stage(f"{this.attempt}5-allocate", WidthPlan, work, (), this.console.skipped)


@dataclass(frozen=True)
class _Made:
    """What an attempt made."""

    plan: WidthPlan
    model: nn.Module
    recovered: Recovered
    artifact: Artifact
    file: Path
    integer_file: Path | None
    verification: Verification


def _shortfall(made: _Made) -> tuple[bool, float]:
    """Return what ranks attempts: a missed gate, then how far the budget is overrun."""
    verdict = made.verification.verdict
    over = max(0.0, verdict.budget.reached / verdict.budget.limit - 1)
    return not verdict.passed, over


def _make(
    this: stages.Run,
    groups: GroupList,
    dense: ModelProfile,
    table: CostTable,
    curves: Sensitivity,
    tighter: float = 1.0,
) -> _Made:
    """Allocate, shrink, recover, export and verify."""
    do, skip, own = this.folder.stage, this.console.skipped, this.attempt
    plan = _allocate(this, groups, dense, table, curves, tighter)
    shrunk, state, file = (
        own + n for n in ("shrunk.safetensors", "recovered.safetensors", "slim.onnx")
    )
    files = this.exported(file)
    do(f"{own}6-shrink", Shrunk, lambda: stages.cut(this, plan), (shrunk,), skip)
    recovered = do(
        f"{own}7-recover", Recovered, lambda: stages.win_back(this, plan), (state,), skip
    )
    artifact = do(f"{own}8-export", Artifact, lambda: stages.write(this, plan), files, skip)
    verification = do(
        f"{own}9-verify",
        Verification,
        lambda: stages.verify(this, plan, dense, recovered),
        files,
        skip,
    )
    model = stages.slim_model(this, plan)
    path = this.own("slim.onnx")
    integer = this.precision.file(path)
    return _Made(
        plan,
        model,
        recovered,
        artifact,
        path,
        integer if integer != path else None,
        verification,
    )


def slim(
    model: nn.Module,
    data: Data,
    *,
    device: str | Device = "mobile_cpu",
    latency: str = "50%",
    max_accuracy_drop: float = 0.01,
    out: str | Path | None = None,
    name: str = "model",
    seed: int = 0,
    quiet: bool = True,
    **sections: Any,
) -> Result:
    """Make `model` meet a latency budget on a device and ship it.

    Args:
        model: a module in eval mode; it is not changed.
        data: see `edgeprune.Data`.
        device: name of a device profile, path of one, or an opened device.
        latency: "50%", "2x", "0.8ms" or "1.2Minsn".
        max_accuracy_drop: absolute, of the metric.
        out: folder to ship to; deploy/<device>/<name> by default.
        name: of the job.
        seed: of everything that is drawn.
        quiet: whether to keep progress from stderr.
        sections: `prune`, `recover` or `export`, as in a job file.

    Returns:
        The slim model, its file, its verdict and its plan.

    Raises:
        EdgepruneError: with a message that says what to do.
    """
    opened = open_device(device) if isinstance(device, str) else device
    job = Job.model_validate(
        {
            "name": name,
            "seed": seed,
            "model": {"factory": "in_memory:model"},
            "data": {"factory": "in_memory:data"},
            "budget": BudgetSection(latency=latency, max_accuracy_drop=max_accuracy_drop),
            **sections,
        }
    )
    check_finite(model)
    data.check()
    check_runs(model.eval(), data)
    folder = Path(out) if out is not None else Path("deploy", opened.spec.name, name)
    return run(job, model, data.guarded(), opened, folder, console=Console(quiet=quiet))
