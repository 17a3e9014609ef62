"""The job: profile -> price -> allocate -> shrink -> recover -> export -> verify -> ship."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from edgeprune.allocation.registry import allocator
from edgeprune.budget import keeps_to
from edgeprune.data import Data
from edgeprune.devices.protocol import Device
from edgeprune.errors import BudgetError, UsageError
from edgeprune.fitting import check_inputs_kept, check_judges, check_runs
from edgeprune.identity import versions
from edgeprune.importance.shared import Merge, read_all
from edgeprune.job import Job
from edgeprune.loading import initial_state, load_data, load_model
from edgeprune.pruning.remainder import Remainder
from edgeprune.records import (
    Artifact,
    CostTable,
    GroupList,
    ModelProfile,
    OtherAttempt,
    Recovered,
    Regularised,
    ScheduleHistory,
    Sensitivity,
    Shrunk,
    SkippedGroup,
    Verdict,
    Verification,
    WidthPlan,
)
from edgeprune.recovery.schedules import Outcome, Step, carry_out
from edgeprune.report.console import Console
from edgeprune.ship import indexed, require_ours, ship
from edgeprune.stages import allocating, base, preparation, pricing, steps, weighing
from edgeprune.stages.beginning import begun
from edgeprune.stages.views import collect


@dataclass(frozen=True)
class Result:
    """What a run leaves: the slim model, its file, its verdict and its plan.

    Args:
        model: the recovered slim torch model, in eval mode.
        artifact: the exported file, where it was shipped to.
        verdict: everything claimed of it.
        plan: the width of every group.
        folder: where everything was shipped to.
        alone: groups that no plan could cut, since they have no prices.
    """

    model: nn.Module
    artifact: Artifact
    verdict: Verdict
    plan: WidthPlan
    folder: Path
    alone: tuple[SkippedGroup, ...] = ()


@dataclass(frozen=True)
class Planned:
    """What `plan` finds without changing anything."""

    groups: GroupList
    profile: ModelProfile
    table: CostTable
    plan: WidthPlan

    @property
    def skipped(self) -> tuple[SkippedGroup, ...]:
        """The groups that are never cut: those that cannot be, and those without prices."""
        return (*self.groups.skipped, *self.table.skipped)


def load(job: Job, folder: Path) -> tuple[nn.Module, Data]:
    """Return the job's model and data, checked to fit each other."""
    model, data = load_model(job, folder), load_data(job, folder)
    check_inputs_kept(model, data)
    check_runs(model, data)
    check_judges(model, data)
    return model, data


def load_given(
    job: Job, folder: Path, scores: Sequence[Path] = (), merge: Merge = "mean"
) -> base.Given:
    """Return what a run needs besides model and data: early weights, `scores` of data holders.

    Raises:
        UsageError: a file holds no scores, or the schedule would estimate them anew.
    """
    kind = job.schedule.kind
    if scores and kind != "one_shot":
        raise UsageError(
            f"schedule {kind} estimates importance anew before each step, which scores of data "
            "holders cannot give",
            'take schedule "one_shot", or leave out --importance',
        )
    initial = initial_state(job, folder) if kind == "lottery" else None
    return base.Given(initial, read_all(scores), merge)


def run(
    job: Job,
    model: nn.Module,
    data: Data,
    device: Device,
    out: Path,
    *,
    resume: bool = False,
    console: Console,
    given: base.Given | None = None,
) -> Result:
    """Do the whole job and ship into `out`; with `resume`, go on where an earlier run stopped.

    Raises:
        EdgepruneError: any of its kinds; finished stages stay in `out`/.run.
    """
    require_ours(out)
    with begun(job, model, data, device, out, console, resume=resume, given=given) as this:
        prices = prices_of(this)
        return deliver(this, prices, attempts(this, prices), out)


def attempts(this: base.Run, prices: Prices) -> Made:
    """Make the slim model; where it misses the budget, once more for a tighter one."""
    made = make(this, prices)
    budget = made.verification.verdict.budget
    steerable = allocator(this.job.prune.allocation).steerable and prices.table.widths
    if budget.met or made.stopped or not steerable:
        return made
    if not keeps_to(made.plan.corrected, made.plan.budget):  # another attempt would find the same
        this.console.warning(
            f"allocation {made.plan.allocation} finds no plan within the budget: the cheapest "
            f"costs {100 * made.plan.corrected / made.plan.budget:.1f} % of it"
        )
        return made
    this.console.warning(
        f"its cost is {100 * budget.reached / budget.limit:.1f} % of the budget: "
        "the device has changed its speed since widths were allocated; trying once more"
    )
    # Of shares, since the device's speed may have changed from the allocation to the verdict.
    tighter = (budget.reached / budget.limit) / (made.plan.corrected / made.plan.budget)
    try:
        again = make(replace(this, attempt=f"{this.attempt}again-"), prices, tighter)
    except BudgetError as error:  # what is finished is still worth having
        this.console.warning(f"no second attempt: {error.what}, of a budget tighter by what missed")
        return made
    return _better(made, again)


def deliver(this: base.Run, prices: Prices, made: Made, out: Path) -> Result:
    """Ship what was made into `out`."""
    others = indexed(out)
    scores = load_file(made.scores) if prices.table.widths else {}
    with this.console.stage("Shipping"):
        ship(
            out,
            verdict=made.verification.verdict,
            plan=made.plan,
            table=prices.table,
            curves=made.curves.curves,
            history=made.recovered.history,
            skipped=(*prices.groups.skipped, *prices.table.skipped),
            dense_profile=this.profiled or prices.dense,
            slim_profile=made.verification.slim_profile,
            model=made.file,
            artifact=made.artifact,
            versions=versions(),
            licence=this.job.model.licence,
            job_title=this.job.name,
            integer_model=made.integer_file,
            chip=this.device.spec.microcontroller,
            views=collect(this.model, made.model, made.plan, prices.groups, scores),
        )
    if others:
        gone = f"the index of models for several budgets in {out} went"
        kept = f"the models of that earlier run are still in {', '.join(others)}"
        this.console.warning(f"{gone}; {kept}")
    shipped = made.artifact.model_copy(update={"path": str(out / "model.onnx")})
    verdict, alone = made.verification.verdict, prices.table.skipped
    return Result(made.model, shipped, verdict, made.plan, out, alone)


def plan_only(job: Job, model: nn.Module, data: Data, device: Device, console: Console) -> Planned:
    """Profile, price and allocate; nothing is kept."""
    with (
        tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch,
        begun(job, model, data, device, Path(scratch), console, scratch=True) as this,
    ):
        prices = prices_of(this)
        plan = allocate(this, prices)
        return Planned(prices.groups, prices.dense, prices.table, plan)


@dataclass(frozen=True)
class Prices:
    """What the device says of the model that is cut, and what each width costs and loses."""

    groups: GroupList
    dense: ModelProfile
    table: CostTable
    curves: Sensitivity


def prices_of(
    this: base.Run, limit: Callable[[float], float] | None = None, *, look: bool = False
) -> Prices:
    """Profile and price: what the device says, and what each width costs in loss.

    Where a prepared model is within `limit` (cost of the prepared model -> what a slim one may
    cost, the budget of the job if not given), nothing is priced. To `look` at what widths cost and
    lose, all is priced, but no plan is measured whole, and no budget asked for.
    """
    do, skip, files = this.folder.stage, this.console.skipped, this.exported(this.start)
    groups = do("1-groups", GroupList, lambda: base.group(this), (), skip)
    dense = this.profiled if this.original is None else None
    if dense is None:
        dense = do("2-profile", ModelProfile, lambda: base.profile(this), files, skip)
    alone = this.job.budget.asked == this.job.budget.latency or not groups.groups
    alone = alone and not (look and groups.groups)
    limit = limit or this.limit
    if this.prepared and alone and preparation.is_enough(this.prepared, groups, dense, limit):
        return Prices(groups, dense, preparation.no_prices(dense), Sensitivity(curves=()))
    table = do(
        "3-price", CostTable, lambda: pricing.price(this, groups, dense, fit=not look), (), skip
    )
    if not look:
        allocating.check_budgets(this, groups, dense, table)
    return Prices(groups, dense, table, _weigh(this, groups, table))


def _weigh(this: base.Run, groups: GroupList, table: CostTable) -> Sensitivity:
    """Find out what each width costs in loss; further attempts share it."""

    def work() -> Sensitivity:
        return weighing.weigh(this, groups, table)

    name, skip = f"{this.step}4-weigh", this.console.skipped
    return this.folder.stage(name, Sensitivity, work, (this.scores.name,), skip)


def allocate(this: base.Run, prices: Prices, tighter: float = 1.0) -> WidthPlan:
    """Allocate widths for 1 / `tighter` of the budget."""

    def work() -> WidthPlan:
        p = prices
        if not p.table.widths:
            return preparation.leave_whole(p.table, this.limit(p.table.dense_cost))
        return allocating.allocate(this, p.groups, p.dense, p.table, p.curves, tighter)

    return this.folder.stage(f"{this.attempt}5-allocate", WidthPlan, work, (), this.console.skipped)


@dataclass(frozen=True)
class _Cut:
    """What a step of the schedule made."""

    run: base.Run
    plan: WidthPlan
    curves: Sensitivity
    recovered: Recovered


@dataclass(frozen=True)
class Made:
    """What an attempt made; `stopped` says why the schedule ended early, if it did."""

    plan: WidthPlan
    curves: Sensitivity
    model: nn.Module
    recovered: Recovered
    artifact: Artifact
    file: Path
    integer_file: Path | None
    verification: Verification
    scores: Path
    stopped: str


def _better(first: Made, second: Made) -> Made:
    """Return what ships of two attempts; its verdict tells of the other one."""
    best, left = sorted((first, second), key=_shortfall)
    budget = left.verification.verdict.budget
    other = OtherAttempt(number=2 if best is first else 1, share=budget.reached / budget.limit)
    verdict = best.verification.verdict.model_copy(update={"other_attempt": other})
    return replace(best, verification=best.verification.model_copy(update={"verdict": verdict}))


def _shortfall(made: Made) -> tuple[bool, float]:
    """Return what ranks attempts: a missed gate, then how far the budget is overrun."""
    verdict = made.verification.verdict
    over = max(0.0, verdict.budget.reached / verdict.budget.limit - 1)
    return not verdict.passed, over


def make(this: base.Run, prices: Prices, tighter: float = 1.0) -> Made:
    """Cut step by step, then export and verify what the last good step made."""
    if not prices.table.widths:  # nothing is cut, in no steps
        this = replace(this, job=preparation.without_steps(this.job))
    outcome, history = _cut_in_steps(this, prices, tighter)
    run, plan, recovered = outcome.state.run, outcome.state.plan, outcome.state.recovered
    do, skip, own = run.folder.stage, run.console.skipped, run.attempt
    files = run.exported(f"{own}slim.onnx")
    artifact = do(f"{own}8-export", Artifact, lambda: base.write(run, plan), files, skip)
    verification = do(
        f"{own}9-verify",
        Verification,
        lambda: base.verify(run, plan, this.profiled or prices.dense, recovered, history),
        files,
        skip,
    )
    path = run.own("slim.onnx")
    integer = run.precision.file(path)
    return Made(
        plan,
        outcome.state.curves,
        base.slim_model(run, plan),
        recovered,
        artifact,
        path,
        integer if integer != path else None,
        verification,
        run.scores,
        outcome.stopped,
    )


def _cut_in_steps(
    this: base.Run, prices: Prices, tighter: float
) -> tuple[Outcome[_Cut], ScheduleHistory | None]:
    """Weigh, allocate, shrink and recover, in as many steps as the schedule has.

    The last step owns the names without a number, and is the one that further attempts repeat.
    """
    planned = steps.steps_of(this, prices.table)
    regularised, start = _before_the_first(this, prices.groups)
    start = this.left or start  # a later member of a family goes on from the one before

    def advance(before: _Cut | None, step: Step) -> _Cut:
        left = steps.after_step(before.run, before.plan) if before else start
        run, aim, known = replace(this, left=left, training=step.training), tighter, prices
        own = f"{this.attempt.removesuffix('again-')}step{step.number}-"
        if step is not planned[-1]:
            run = replace(run, attempt=own, job=steps.without_other_limits(this.job))
            aim = planned[-1].share / step.share
        # the model is another one than what was weighed: what is known of it is old
        if left is not None and (left is not this.left or regularised is not None):
            run = replace(run, step=own)
            known = replace(prices, curves=_weigh(run, prices.groups, prices.table))
        plan = allocate(run, known, aim)
        return _Cut(run, plan, known.curves, _shrink_and_recover(run, plan))

    least = steps.least_share(this.job)
    outcome = carry_out(planned, advance, lambda cut: cut.recovered.best, least_share=least)
    if len(planned) == 1 and regularised is None:
        return outcome, None
    cuts = [cut for cut, _ in outcome.tried]
    history = ScheduleHistory(
        kind=this.job.schedule.kind,
        planned=len(planned),
        steps=tuple(
            steps.told(step, cut.plan, cut.recovered)
            for step, cut in zip(planned, cuts, strict=False)
        ),
        stopped=outcome.stopped,
        regularised=regularised,
    )
    return outcome, history


def _before_the_first(
    this: base.Run, groups: GroupList
) -> tuple[Regularised | None, Remainder | None]:
    """Regularise, and keep early weights, where the job asks for it."""
    do, skip = this.folder.stage, this.console.skipped
    if this.job.schedule.kind == "lottery":
        early = (base.EARLY,)
        do("3-early", Recovered, lambda: steps.begin_early(this), early, skip)
    if this.job.regularise is None:
        return None, None
    files = (steps.REGULARISED,)
    done = do("3-regularise", Regularised, lambda: steps.regularise(this, groups), files, skip)
    return done, steps.after_regularising(this)


def _shrink_and_recover(run: base.Run, plan: WidthPlan) -> Recovered:
    do, skip, own = run.folder.stage, run.console.skipped, run.attempt
    shrunk, state = f"{own}shrunk.safetensors", f"{own}recovered.safetensors"
    do(f"{own}6-shrink", Shrunk, lambda: base.cut(run, plan), (shrunk,), skip)
    return do(f"{own}7-recover", Recovered, lambda: base.win_back(run, plan), (state,), skip)
