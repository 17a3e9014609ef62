"""What to prune, with which data, within which budget: job.toml -> Job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edgeprune.budget import BudgetRequest, parse_budget
from edgeprune.errors import JobError, UsageError
from edgeprune.faults import every_key, read_toml, told
from edgeprune.sections import (
    BenchSection,
    BudgetSection,
    CollapseSection,
    DataSection,
    ExportSection,
    GuardsSection,
    MaskSection,
    ModelSection,
    PruneSection,
    RecoverSection,
    RegulariseSection,
    ScheduleSection,
    Section,
    job_name,
)
from edgeprune.seeds import SEEDS


class Job(Section):
    """A whole job. `folder` is where its relative paths start; it is not part of the file."""

    name: Annotated[str, AfterValidator(job_name)]
    seed: int = Field(default=0, ge=0, lt=SEEDS)
    model: ModelSection
    data: DataSection
    budget: BudgetSection = BudgetSection()
    mask: MaskSection | None = None
    collapse: CollapseSection = CollapseSection()
    prune: PruneSection = PruneSection()
    schedule: ScheduleSection = ScheduleSection()
    regularise: RegulariseSection | None = None
    recover: RecoverSection = RecoverSection()
    guards: GuardsSection = GuardsSection()
    export: ExportSection = ExportSection()
    bench: BenchSection = BenchSection()

    @model_validator(mode="after")
    def _zeros_stay(self) -> Job:
        if self.mask is not None and self.recover.insists_on_reconstruction:
            raise ValueError("[recover] reconstruct would fill the weights that [mask] makes zero")
        if self.mask is not None and self.regularise is not None:
            raise ValueError("[regularise] would fill the weights that [mask] makes zero")
        if self.schedule.kind == "lottery" and (self.mask is not None or self.collapse.enabled):
            raise ValueError("schedule lottery rewinds the weights that [mask] and [collapse] make")
        return self

    @property
    def untouched(self) -> dict[str, str]:
        """Layers, or prefixes of their names, that are never cut -> the key that names them."""
        keys = dict.fromkeys(self.guards.layers, "guards.layers")
        return dict.fromkeys(self.prune.keep, "prune.keep") | {
            layer: key for layer, key in keys.items() if layer not in self.prune.keep
        }

    def with_overrides(self, *, budget: str | None = None, seed: int | None = None) -> Job:
        """Return the job with what the command line says instead.

        Raises:
            UsageError: `budget` cannot be read, or `seed` is out of range.
        """
        job = self
        if budget is not None:
            parse_budget(budget)
            section = job.budget.model_copy(update={"latency": budget})
            job = job.model_copy(update={"budget": section})
        if seed is None:
            return job
        if not 0 <= seed < SEEDS:
            raise UsageError(f"seed {seed} is not between 0 and {SEEDS - 1}")
        return job.model_copy(update={"seed": seed})

    @property
    def request(self) -> BudgetRequest:
        """The latency budget: that of the dense model where only other limits are given.

        Raises:
            UsageError: the job gives no limit at all.
        """
        if not self.budget.asked:
            raise UsageError(
                f"job {self.name!r} has no budget", 'give --budget 50% or [budget] latency = "50%"'
            )
        return parse_budget(self.budget.latency or "100%")


def load_job(path: Path) -> Job:
    """Return the job in the file `path`.

    Raises:
        JobError: the file is missing, is not TOML, or has faults (all are listed).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise JobError(
            str(path), [f"cannot be read: {reason}"], "name a job file (job.toml)"
        ) from None
    try:
        table = read_toml(text)
    except ValueError as error:
        raise JobError(str(path), [f"not TOML: {error}"]) from None
    return job_of(table, str(path), text)


def job_of(table: dict[str, Any], where: str, text: str = "") -> Job:
    """Return the job in `table`, named `where` in messages; `text` is the TOML it came from.

    Raises:
        JobError: it has faults (all are listed).
    """
    try:
        return Job.model_validate(table)
    except ValidationError as error:
        faults = told(error, Job, text, "job")
        raise JobError(where, faults, every_key("jobs.md")) from None
