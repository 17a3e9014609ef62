"""What channels and widths are worth: scores, and what each width costs in loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.data import Data, first_batches
from edgeprune.errors import UnscoredError, UsageError, UserFunctionError
from edgeprune.identity import curves_base
from edgeprune.importance.kept import CurveStore, default_folder
from edgeprune.importance.meter import LossMeter
from edgeprune.importance.scores import bundled, score_channels, spanning
from edgeprune.importance.sensitivity import (
    agreement,
    best_curves,
    block_losses,
    importance_curves,
    sensitivity_curves,
)
from edgeprune.importance.shared import Scored, merge
from edgeprune.job import Job
from edgeprune.records import BlockLoss, CostTable, GroupList, Sensitivity, SensitivityCurve
from edgeprune.sections import expanded
from edgeprune.stages.base import Run
from edgeprune.store import CACHE, atomic, once, usable

AGREED = 0.9  # rank correlation of two halves of the calibration batches
LITTLE = 0.01  # of the dense loss: falls of less are noise


def weigh(run: Run, groups: GroupList, table: CostTable) -> Sensitivity:
    """Score channels and measure what each width costs in loss."""
    settings, present = run.job.prune, run.present
    left, table = present.groups(groups), present.table(table)
    with run.console.stage("Measuring sensitivity") as stage:
        scores = _shared(run, groups)
        if scores is None:
            scores = score(run.job, present.model, run.data, left, run.console.info)
        with atomic(run.scores) as partial:
            save_file(
                {
                    f"{criterion}/{name}": score.contiguous()
                    for criterion, by_group in scores.items()
                    for name, score in present.scores(by_group, groups).items()
                },
                partial,
            )
        if settings.loss == "importance":
            first = spanning(scores, table.widths)
            sums = {name: float(found.double().sum()) for name, found in scores[first].items()}
            return Sensitivity(
                curves=importance_curves(table.widths, scores[first], first),
                blocks=tuple(
                    BlockLoss(last=block.last, increase=sum(sums[g] for g in block.groups))
                    for block in groups.blocks
                ),
            )
        curves = sensitivity_curves(
            present.model,
            run.data,
            table.widths,
            scores,
            samples=settings.calibration_samples,
            store=_store(run),
            progress=stage.update,
        )
        _warn_unsure(run, curves)
        _warn_falling(run, curves)
        samples = settings.calibration_samples
        blocks = block_losses(present.model, run.data, groups.blocks, samples=samples)
        return Sensitivity(curves=curves, blocks=blocks)


def _warn_unsure(run: Run, curves: Sequence[SensitivityCurve]) -> None:
    """Tell where fewer calibration samples would give, and so more may give, another order."""
    agreed = agreement(best_curves(curves))
    if agreed is not None and agreed < AGREED:
        run.console.warning(
            "two halves of the calibration batches order the cuts of single groups differently "
            f"(rank correlation {agreed:.2f}), so the curves need more samples: {_more(run)}"
        )


def _more(run: Run) -> str:
    """Return what gives curves more samples: the setting, unless all of the data is in use."""
    asked = run.job.prune.calibration_samples
    given = samples_of(run.data, asked)
    if samples_of(run.data, given + 1) > given:
        return f"raise [prune] calibration_samples (now {asked})"
    return f"give more calibration data (now {given} samples)"


def _warn_falling(run: Run, curves: Sequence[SensitivityCurve]) -> None:
    """Tell where cuts do the model good, as they do if it is wrong about the calibration data."""
    narrowest = [c.increases[0] for c in best_curves(curves).values() if len(c.widths) > 1]
    if 2 * sum(increase < 0 for increase in narrowest) <= len(narrowest):
        return  # the dense loss is not needed, which curves that are kept do without
    meter = LossMeter(run.present.model, run.data, run.job.prune.calibration_samples)
    little = LITTLE * abs(meter.dense.loss)
    lower = sum(increase < -little for increase in narrowest)
    if 2 * lower > len(narrowest):
        run.console.warning(
            f"most cuts lower the loss on the calibration data ({lower} of {len(narrowest)} groups "
            "at their narrowest width): its labels or the loss may not fit the model"
        )


def samples_of(data: Data, count: int) -> int:
    """Return how many calibration samples the first batches with at least `count` hold."""
    return sum(
        len(inputs[0]) for inputs, _ in first_batches(data.calibration, count, "calibration")
    )


def _store(run: Run) -> CurveStore | None:
    """Return where finished curves are kept, if they can be."""
    folder = usable(default_folder(), CACHE, run.console.warning)
    base = curves_base(run.present.model, run.data, run.job.prune)
    return CurveStore(folder, base, once(run.console.warning)) if folder else None


def score(
    job: Job,
    model: nn.Module,
    data: Data,
    groups: GroupList,
    told: Callable[[str], None] = lambda _: None,
) -> Scored:
    """Return criterion -> group -> scores [width], by all criteria of the job.

    Those that "auto" stands for score the groups that they can; `told` hears of the others.

    Raises:
        UsageError: a criterion that the job names cannot score a group, or none of "auto" can.
    """
    settings = job.prune
    found: Scored = {}
    refused: dict[str, UsageError] = {}
    for name in expanded(settings.importance):
        left, reasons = list(groups.groups), dict[str, str]()
        while left:
            try:
                found[name] = score_channels(
                    model,
                    data,
                    left,
                    name,
                    samples=settings.calibration_samples,
                    seed=job.seed,
                    fused=settings.fused,
                    probes=settings.probes,
                )
                break
            except UnscoredError as error:
                if name in settings.importance:
                    raise
                reasons |= error.reasons
                refused[name] = UnscoredError(name, reasons, error.hint)
                left = [group for group in left if group.name not in error.reasons]
            except UsageError as error:  # such as labels that are not there
                if name in settings.importance or isinstance(error, UserFunctionError):
                    raise
                refused[name] = error
                break
    for group in groups.groups:
        if not any(group.name in by_group for by_group in found.values()):
            raise next(iter(refused.values()))
    for name, refusal in refused.items():  # no fault: "auto" is what suits the model
        does = "ranks the other groups" if name in found else "does not apply"
        told(f"importance auto: {name} {does} ({refusal.what.removeprefix(f'importance {name} ')})")
    return {name: _bundled(by_group, groups) for name, by_group in found.items()}


def _bundled(scores: Mapping[str, Tensor], groups: GroupList) -> dict[str, Tensor]:
    return {g.name: bundled(scores[g.name], g) for g in groups.groups if g.name in scores}


def _shared(run: Run, groups: GroupList) -> Scored | None:
    """Return the merged scores of data holders, if the run was given any."""
    given = run.given
    if not given.shared:
        return None
    merged = merge(given.shared, given.merge)
    return {name: _bundled(by_group, groups) for name, by_group in merged.items()}
