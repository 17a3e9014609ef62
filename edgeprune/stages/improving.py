"""The exact allocator's plan improved by what whole plans lose, before recovery and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from edgeprune.allocation.candidates import Candidates
from edgeprune.allocation.polishing import Groups, Polish
from edgeprune.allocation.problem import Problem
from edgeprune.allocation.trials import Trials, trial_steps
from edgeprune.data import first_batches
from edgeprune.importance.gates import learned_gates
from edgeprune.importance.in_plan import InPlan
from edgeprune.importance.meter import LossMeter, mean_loss, told
from edgeprune.pruning.groups import cut
from edgeprune.records import GroupList, PlannedGroup, ResidualBlock, WidthPlan
from edgeprune.recovery.finetuning import CHECK_SAMPLES, prepared
from edgeprune.recovery.training import side_by_side
from edgeprune.report.progress import Stage
from edgeprune.stages.base import Run, recovery_settings

REFIT = "refit_error"  # ranks channels where recovery reconstructs


def improved(
    run: Run,
    groups: GroupList,
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

    def loss(planned: Mapping[str, PlannedGroup]) -> float:
        kept = {name: group.kept for name, group in planned.items()}
        return meter.least_increase(kept, candidates.removed(planned))

    def gates(planned: Mapping[str, PlannedGroup]) -> Iterator[Mapping[str, Tensor]]:
        kept = {name: group.kept for name, group in planned.items()}
        return learned_gates(
            run.model, run.data, groups.groups, kept, scale_free=meter.scale_free, seed=run.job.seed
        )

    def recovered(plans: Sequence[Groups]) -> list[tuple[float, float]]:
        short = settings.model_copy(update={"steps": steps})
        models, whats = [], []
        for number, planned in enumerate(plans):
            stage.update(number, len(plans), "plans cut and re-fitted")
            kept = {name: group.kept for name, group in planned.items()}
            slim = cut(run.model, run.data.example, kept, candidates.removed(planned))
            left = {name: channels for name, channels in kept.items() if channels}
            model, _ = prepared(slim, run.model, run.data, short, seed=run.job.seed, kept=left)
            models.append(model)
            whats.append(told(left, candidates.removed(planned)))
        samples = first_batches(run.data.validation, CHECK_SAMPLES, "validation")

        def losses(models: Sequence[nn.Module]) -> list[float]:
            return [
                mean_loss(model, run.data, samples, cut=what, part="validation")
                for model, what in zip(models, whats, strict=True)
            ]

        before = losses(models)
        if not steps:
            return [(loss, loss) for loss in before]
        for step, averages in side_by_side(models, run.dense, run.data, short):
            stage.update(step, steps, f"steps of {len(models)} plans side by side")
            models = averages
        after = losses(models)
        return list(zip(before, after, strict=True))

    bundles = {group.name: group for group in groups.groups}
    polish = Polish(problem, scores, bundles, loss, candidates.measure, gates, stage.note)
    if not steps and not settings.reconstruct:
        return polish(plan)
    ranked = _Ranking(run, groups, candidates, stage.note)
    trials = Trials(polish, recovered, candidates.rankings, ranked, steps, seed=run.job.seed)
    return trials(plan)


@dataclass
class _Ranking:
    """Ranks the channels of groups that `refit_error` ranks anew for each plan.

    Scores of data holders stay as they are: what they rest on is not here.
    """

    run: Run
    groups: GroupList
    candidates: Candidates
    note: Callable[[str], None]
    taken_in: dict[tuple[str, ...], InPlan] = field(default_factory=dict)

    def __call__(self, planned: Groups) -> Groups:
        """Return `planned` with other channels, as many of each group."""
        rankings, run = self.candidates.rankings, self.run
        refitted = [group for group in self.groups.groups if rankings.get(group.name) == REFIT]
        if run.given.shared or not refitted:
            return planned
        removed = self.candidates.removed(planned)
        key = tuple(block.last for block in removed)
        if key not in self.taken_in:
            self.note("looking at what consumers receive" + "".join(f", without {k}" for k in key))
            model = self._without(removed) if removed else run.model
            samples = run.job.prune.calibration_samples
            self.taken_in[key] = InPlan(
                model, run.data, refitted, samples=samples, seed=run.job.seed
            )
        found = self.taken_in[key]({name: group.kept for name, group in planned.items()})
        return {
            name: group.model_copy(update={"kept": found.get(name, group.kept)})
            for name, group in planned.items()
        }

    def _without(self, removed: Sequence[ResidualBlock]) -> nn.Module:
        """Return the model without some branches, re-fitted to make up for them."""
        run, gone = self.run, {name for block in removed for name in block.groups}
        whole = {g.name: tuple(range(g.width)) for g in self.groups.groups if g.name not in gone}
        slim = cut(run.model, run.data.example, {}, removed)
        settings = recovery_settings(run)
        model, _ = prepared(slim, run.model, run.data, settings, seed=run.job.seed, kept=whole)
        return model
