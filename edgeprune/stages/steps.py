"""The steps of a schedule: how many there are, what comes before the first, what each leaves."""

from __future__ import annotations

from safetensors.torch import load_file
from torch import nn

from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.fitting import check_gradient
from edgeprune.importance.registry import criterion
from edgeprune.job import Job
from edgeprune.pruning.channels import require_layers
from edgeprune.pruning.remainder import Remainder
from edgeprune.records import CostTable, GroupList, Recovered, Regularised, ScheduleStep, WidthPlan
from edgeprune.recovery.batchnorm import require_measurable
from edgeprune.recovery.finetuning import recover
from edgeprune.recovery.regularisation import require_training, train_regularised
from edgeprune.recovery.schedules import Step, epoch_steps, plan_steps, rewind
from edgeprune.recovery.teaching import require_teachable
from edgeprune.sections import expanded
from edgeprune.stages import base
from edgeprune.transforms import masks
from edgeprune.verify import guards

REGULARISED = "regularised.safetensors"


def steps_of(run: base.Run, table: CostTable) -> tuple[Step, ...]:
    """Return the steps of the schedule.

    Raises:
        BudgetError: they never reach the budget.
    """
    limit = run.limit(table.dense_cost)
    return steps_to(run.job, run.data, limit / table.dense_cost)


def steps_to(job: Job, data: Data, share: float) -> tuple[Step, ...]:
    """Return the steps in which the job's schedule reaches `share` of the dense cost."""
    taught = data.train if data.train is not None else data.calibration  # as in recovery
    return plan_steps(job.schedule, share, job.recover.steps, lambda: epoch_steps(taught))


def check(job: Job, model: nn.Module, data: Data, given: base.Given | None = None) -> None:
    """Make sure, before any work, that the parts of the job fit each other, model and budget.

    Raises:
        BudgetError: the schedule does not reach a budget that is a share of dense.
        DataError: a guard compares classes, and model or data have none; there is nothing to train
            with regularisation on; BatchNorm finds no variance in any batch; or it is not known
            what the dense model would teach.
        UsageError: the allocation cannot go on from a step, masks that the model carries would be
            lost, a layer to keep or with a floor does not exist, or given scores are of another
            model than what is scored.
        UserFunctionError: the loss has no gradient, and the job needs one.
    """
    require_layers(model, job.prune.keep, job.prune.floors)
    guards.check(job.guards, model, data)
    require_teachable(model, data, job.recover)
    if _differentiates(job, data, given):
        check_gradient(model, data)
    _masks_stay(job, model)
    if job.regularise is not None:
        require_training(data)
    if job.prune.loss == "sensitivity":  # without, a plan takes no statistics
        training = job.recover.steps > 0 or job.regularise is not None
        require_measurable(model, data, training=training)
    if given is not None and given.shared:
        _scored_as_given(job, model)
    kind, allocation = job.schedule.kind, job.prune.allocation
    if kind != "one_shot" and allocation != "exact":
        raise UsageError(
            f"schedule {kind} cuts what is left from step to step, which allocation {allocation} "
            "cannot: it decides on the dense model",
            'take allocation "exact", or schedule "one_shot"',
        )
    if job.request.share is not None:
        steps_to(job, data, job.request.share)


def _differentiates(job: Job, data: Data, given: base.Given | None) -> bool:
    """Whether the job takes gradients of the loss: to score, or to train by labels."""
    settings = job.recover
    by_labels = data.train is not None and not (settings.distill and settings.distill_weight == 1.0)
    if job.regularise is not None or (settings.steps > 0 and by_labels):
        return True
    if given is not None and given.shared:
        return False
    named = map(criterion, expanded(job.prune.importance))
    return any(one.labels and one.gradients for one in named)


def _masks_stay(job: Job, model: nn.Module) -> None:
    losing = {
        "[recover] reconstruct": job.recover.insists_on_reconstruction,
        "[regularise]": job.regularise is not None,
        "schedule lottery": job.schedule.kind == "lottery",
    }
    names = [name for name, asked in losing.items() if asked]
    if names and masks.carried(model):
        raise UsageError(
            f"the model carries masks, and {names[0]} would fill the weights that they make zero",
            f"leave out {names[0]}, or make the model without its masks",
        )


def _scored_as_given(job: Job, model: nn.Module) -> None:
    changes = {
        "[mask]": job.mask is not None,
        "[collapse]": job.collapse.enabled,
        "[regularise]": job.regularise is not None,
        "masks that the model carries": bool(masks.carried(model)),
    }
    names = [name for name, asked in changes.items() if asked]
    if names:
        raise UsageError(
            f"scores of data holders are of the model as it is given, and {names[0]} changes it "
            "before channels are ranked",
            "leave that out, or leave out --importance",
        )


def without_other_limits(job: Job) -> Job:
    """Return the job with latency alone as its limit: the others count in the last step."""
    others = dict.fromkeys(("macs", "parameters", "ram_kb", "flash_kb"))
    return job.model_copy(update={"budget": job.budget.model_copy(update=others)})


def least_share(job: Job) -> float | None:
    """Return the share of the first step's metric under which the schedule stops."""
    return job.schedule.least_share if job.schedule.kind == "progressive" else None


def told(step: Step, plan: WidthPlan, recovered: Recovered) -> ScheduleStep:
    """Return what became of a step, for the record."""
    return ScheduleStep(
        number=step.number,
        limit=plan.budget,
        cost=plan.corrected,
        recalibrated=recovered.recalibrated,
        metric=recovered.best,
        training_steps=step.training,
        widths={name: group.after for name, group in plan.groups.items()},
    )


def regularise(run: base.Run, groups: GroupList) -> Regularised:
    """Train the dense model towards weak channels, before anything is cut."""
    settings = run.job.regularise
    assert settings is not None
    with run.console.stage("Training with regularisation") as stage:
        found = train_regularised(
            run.model,
            run.data,
            groups.groups,
            settings,
            seed=run.job.seed,
            progress=stage.update,
        )
        base.save_state(found.model, run.file(REGULARISED))
    return Regularised(
        kind=settings.kind, before=found.before, after=found.after, history=found.history
    )


def begin_early(run: base.Run) -> Recovered:
    """Keep the weights to which `lottery` rewinds: initial ones, or those after a few steps."""
    schedule, initial = run.job.schedule, run.given.initial
    if initial is None:
        raise UsageError(
            "schedule lottery needs the weights from before the training",
            "run it from a job file whose model factory makes them, or give slim(initial=state)",
        )
    with run.console.stage("Preparing early weights") as stage:
        fresh = rewind(run.model, run.data.example, {}, initial)
        early = schedule.early_steps if schedule.rewind == "early" else 0
        settings = run.job.recover.model_copy(
            update={"steps": early, "distill": False, "reconstruct": False}
        )
        found = recover(
            fresh, run.model, run.data, settings, seed=run.job.seed, progress=stage.update
        )
        base.save_state(found.model if early else fresh, run.file(base.EARLY))
    return Recovered(recalibrated=found.recalibrated, best=found.best, history=found.history)


def after_regularising(run: base.Run) -> Remainder:
    """Return the whole model with its regularised weights."""
    return Remainder(rewind(run.model, run.data.example, {}, load_file(run.file(REGULARISED))))


def after_step(run: base.Run, plan: WidthPlan) -> Remainder:
    """Return what a finished step left."""
    return Remainder.of(base.slim_model(run, plan), plan)
