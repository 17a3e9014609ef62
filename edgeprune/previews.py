"""What can be had without a run: sensitivity curves, and scores to be shared."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from edgeprune.data import Data
from edgeprune.devices.protocol import Device
from edgeprune.errors import OutputError, UsageError
from edgeprune.identity import origin_of
from edgeprune.importance.scores import complete, spanning
from edgeprune.importance.shared import Origin, read_scores, write_scores
from edgeprune.job import Job
from edgeprune.loading import seed_everything
from edgeprune.pipeline import prices_of
from edgeprune.records import Sensitivity
from edgeprune.report.console import Console
from edgeprune.sections import BudgetSection, expanded
from edgeprune.stages import allocating, base, weighing
from edgeprune.stages.preparing import prepared
from edgeprune.store import RunFolder, require_writable


def sensitivity_only(
    job: Job, model: nn.Module, data: Data, device: Device, console: Console
) -> tuple[Sensitivity, dict[str, str]]:
    """Profile, price and measure what each width costs in loss; curves are kept by content.

    Returns:
        The curves, and group -> criterion by which a plan of the job would begin to rank.
    """
    seed_everything(job.seed)
    whole = job.model_copy(update={"budget": BudgetSection(latency="100%")})  # only to look
    with (
        tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch,
        RunFolder(Path(scratch), {}, resume=False) as folder,  # nothing is resumed
    ):
        this = prepared(base.Run(whole, model, data, device, folder, console))
        curves = prices_of(this, look=True).curves
        return curves, allocating.rankings(
            this, curves, load_file(this.scores) if curves.curves else {}
        )


def score(job: Job, model: nn.Module, data: Data, out: Path, console: Console) -> Origin:
    """Score the channels on the job's own data and write the scores to `out`, to be shared.

    Raises:
        OutputError: `out` is there and holds no scores, or cannot be written.
    """
    _require_scores(out)
    seed_everything(job.seed)
    with console.stage("Finding channel groups"):
        groups = base.find(job, model, data)
        base.tell_of_unseen(groups, console)
    with console.stage(f"Scoring channels by {', '.join(expanded(job.prune.importance))}"):
        found = weighing.score(job, model, data, groups, console.info)
        names = [group.name for group in groups.groups]
        spanning(found, names)  # holders may differ in what "auto" can score only as a whole
        scores = {name: found[name] for name in complete(found, names)}
    origin = origin_of(job, model, groups, scored_samples(job, data), tuple(scores))
    write_scores(out, scores, origin)
    return origin


def scored_samples(job: Job, data: Data) -> int:
    """Return from how many calibration samples scores are: those asked for, if there are."""
    asked = job.prune.calibration_samples
    return min(asked, weighing.samples_of(data, asked))


def curve_samples(job: Job, data: Data) -> int:
    """Return from how many calibration samples curves are: losses are measured on whole batches."""
    measured = job.prune.loss == "sensitivity"
    if not measured:
        return scored_samples(job, data)
    return weighing.samples_of(data, job.prune.calibration_samples)


def _require_scores(out: Path) -> None:
    """Make sure that nothing but older scores is overwritten, and that something can be written."""
    if out.exists():
        try:
            read_scores(out)
        except UsageError:
            raise OutputError(
                f"{out} is there and holds no scores", "name another file: --out FILE"
            ) from None
    require_writable(out)
