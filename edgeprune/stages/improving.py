"""The exact allocator's plan improved by what whole plans lose, before recovery and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from edgeprune.allocation.candidates import Candidates
from edgeprune.allocation.polishing import Groups, Polish
from edgeprune.allocation.problem import Problem
from edgeprune.allocation.trials import Trials, trial_steps
from edgeprune.data import first_batches
from edgeprune.importance.gates import learned_gates
from edgeprune.importance.sensitivity import LossMeter, mean_loss
from edgeprune.pruning.groups import cut
from edgeprune.records import PlannedGroup, WidthPlan
from edgeprune.recovery.finetuning import CHECK_SAMPLES, prepared
from edgeprune.recovery.training import side_by_side
from edgeprune.report.progress import Stage
from edgeprune.stages.base import Run, recovery_settings


def improved(
    run: Run,
    candidates: Candidates,
    problem: Problem,
    scores: Mapping[str, Mapping[str, Tensor]],
    meter: LossMeter,
    plan: WidthPlan,
    stage: Stage,
) -> WidthPlan:
    """Return `plan`, or one of the same cost that serves the job better.

    Where BatchNorm is all that is recalibrated afterwards, the loss after that is what counts: the
    plan is polished. Otherwise plans are tried with some of the recovery.
    """
    settings = recovery_settings(run)
    steps = trial_steps(settings.steps)

    def loss(groups: Mapping[str, PlannedGroup]) -> float:
        kept = {name: group.kept for name, group in groups.items()}
        return meter.increase(kept, candidates.removed(groups))

    def gates(groups: Mapping[str, PlannedGroup]) -> Iterator[Mapping[str, Tensor]]:
        kept = {name: group.kept for name, group in groups.items()}
        return learned_gates(run.model, run.data, kept, seed=run.job.seed)

    def recovered(plans: Sequence[Groups]) -> list[tuple[float, float]]:
        short = settings.model_copy(update={"steps": steps})
        models = []
        for groups in plans:
            kept = {name: group.kept for name, group in groups.items()}
            slim = cut(run.model, run.data.example, kept, candidates.removed(groups))
            left = {name: channels for name, channels in kept.items() if channels}
            model, _ = prepared(slim, run.model, run.data, short, seed=run.job.seed, kept=left)
            models.append(model)
        samples = first_batches(run.data.validation, CHECK_SAMPLES, "validation")
        before = [mean_loss(model, run.data, samples) for model in models]
        if not steps:
            return [(loss, loss) for loss in before]
        for step, averages in side_by_side(models, run.dense, run.data, short):
            stage.update(step, steps, f"trials of {len(models)} plans")
            models = averages
        after = [mean_loss(model, run.data, samples) for model in models]
        return list(zip(before, after, strict=True))

    polish = Polish(problem, scores, loss, candidates.measure, gates, stage.note)
    if not steps and not settings.reconstruct:
        return polish(plan)
    return Trials(polish, recovered, candidates.rankings, steps, seed=run.job.seed)(plan)
