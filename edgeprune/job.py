"""What to prune, with which data, within which budget: job.toml -> Job."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgeprune.errors import JobError, UsageError
from edgeprune.methods import MethodKind, names, unknown

SEEDS = 2**31
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
BUDGET = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%|x|us|ms|s|insn|kinsn|Minsn|Ginsn)\s*")
FACTORS = {"us": 1.0, "ms": 1e3, "s": 1e6, "insn": 1.0, "kinsn": 1e3, "Minsn": 1e6, "Ginsn": 1e9}


class BudgetRequest(BaseModel):
    """A budget as asked: `share` of the dense cost, or `absolute` in `unit`."""

    model_config = ConfigDict(frozen=True)
    text: str
    share: float | None = None
    absolute: float | None = None
    unit: Literal["us", "instructions"] | None = None

    def limit(self, dense_cost: float, unit: str) -> float:
        """Return the limit in the device's unit.

        Raises:
            UsageError: the budget is in another unit than the device's.
        """
        if self.share is not None:
            return self.share * dense_cost
        if self.unit != unit or self.absolute is None:
            raise UsageError(
                f"budget {self.text!r}: this device's unit is {unit}",
                'give a share such as "50%" or "2x", or a figure in the unit of the device',
            )
        return self.absolute


def parse_budget(text: str) -> BudgetRequest:
    """Return the budget that `text` asks for: "50%", "2x", "0.8ms", "1.2Minsn".

    Raises:
        UsageError: not a budget, or a share outside (0, 100] % or (1, ...) x.
    """
    form = 'a budget is a share ("50%", "2x") or a figure ("0.8ms", "900us", "1.2Minsn")'
    match = BUDGET.fullmatch(text)
    if match is None:
        raise UsageError(f"budget {text!r} cannot be read", form)
    value, unit = float(match[1]), match[2]
    if not math.isfinite(value * FACTORS.get(unit, 1.0)):
        raise UsageError(f"budget {text!r} is too large a number", form)
    if unit == "%":
        if not 0 < value <= 100:
            raise UsageError(f"budget {text!r} is not between 0 % and 100 %", form)
        return BudgetRequest(text=text.strip(), share=value / 100)
    if unit == "x":
        if value < 1:
            raise UsageError(f"budget {text!r} asks for a slower model than the dense one", form)
        if 1 / value == 0:
            raise UsageError(f"budget {text!r} is too large a number", form)
        return BudgetRequest(text=text.strip(), share=1 / value)
    if value <= 0:
        raise UsageError(f"budget {text!r} is not above 0", form)
    kind: Literal["us", "instructions"] = "instructions" if unit.endswith("insn") else "us"
    return BudgetRequest(text=text.strip(), absolute=value * FACTORS[unit], unit=kind)


def _factory(text: str) -> str:
    if not FACTORY.fullmatch(text):
        raise ValueError(f'{text!r} is not of the form "module:function"')
    return text


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r} must be letters, digits, '.', '_' or '-' (it names a folder)")
    return text


def _budget(text: str) -> str:
    try:
        parse_budget(text)
    except UsageError as error:
        raise ValueError(f"{error.what}; {error.hint}") from None
    return text


Factory = Annotated[str, AfterValidator(_factory)]


class Section(BaseModel):
    """Base of the sections of a job: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSection(Section):
    """Where the model comes from; `licence` is that of the weights and goes into the manifest."""

    factory: Factory
    weights: str | None = None
    licence: str | None = None


class DataSection(Section):
    """Where the data comes from."""

    factory: Factory


class BudgetSection(Section):
    """What the slim model may cost; `max_accuracy_drop` is absolute, of the metric."""

    latency: Annotated[str, AfterValidator(_budget)] | None = None
    ram_kb: float | None = Field(default=None, gt=0)
    flash_kb: float | None = Field(default=None, gt=0)
    max_accuracy_drop: float = Field(default=0.01, ge=0, le=1)


def _known(kind: MethodKind) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names(kind):
            raise ValueError(unknown(kind, name))
        return name

    return AfterValidator(check)


Family = Literal["base", "activation", "gradient", "cooperation"]


class FusedSection(Section):
    """How importance `fused` is put together; at most `batches` batches of 32 samples are used.

    `removals` is how many sets of channels a group loses, one after the other, for `learned`.
    """

    fusion: Annotated[str, _known("fusion")] = "simple"
    families: Annotated[tuple[Family, ...], Field(min_length=1)] = (
        "base",
        "activation",
        "gradient",
        "cooperation",
    )
    batches: int = Field(default=100, ge=1)
    removals: int = Field(default=6, ge=1)


class PruneSection(Section):
    """How to choose what goes; `auto` tries Taylor and L2 and keeps the better one per group."""

    importance: Annotated[str, _known("importance")] = "auto"
    fused: FusedSection = FusedSection()
    loss: Literal["sensitivity", "importance"] = "sensitivity"
    allocation: Literal["exact"] = "exact"
    keep: tuple[str, ...] = ()
    calibration_samples: int = Field(default=512, ge=1)


class RecoverSection(Section):
    """How accuracy is won back; `distill` learns from the dense model's outputs as well.

    With `reconstruct`, layers behind a cut are first re-fitted by least squares, without labels.
    """

    reconstruct: bool = False
    steps: int = Field(default=400, ge=0)
    distill: bool = True
    learning_rate: float = Field(default=0.05, gt=0)
    temperature: float = Field(default=4.0, gt=0)
    distill_weight: float = Field(default=0.9, ge=0, le=1)


class ExportSection(Section):
    """How the model is written; `precision` is that in which it runs on the device."""

    precision: Literal["float32", "int8"] = "float32"
    opset: int = Field(default=20, ge=18, le=23)


class Job(Section):
    """A whole job. `folder` is where its relative paths start; it is not part of the file."""

    name: Annotated[str, AfterValidator(_name)]
    seed: int = Field(default=0, ge=0, lt=SEEDS)
    model: ModelSection
    data: DataSection
    budget: BudgetSection = BudgetSection()
    prune: PruneSection = PruneSection()
    recover: RecoverSection = RecoverSection()
    export: ExportSection = ExportSection()

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
        """The latency budget.

        Raises:
            UsageError: the job gives none.
        """
        if self.budget.latency is None:
            raise UsageError(
                f"job {self.name!r} has no budget", 'give --budget 50% or [budget] latency = "50%"'
            )
        return parse_budget(self.budget.latency)


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
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobError(str(path), [f"not TOML: {error}"]) from None
    try:
        return Job.model_validate(table)
    except ValidationError as error:
        faults = [_fault(text, dict(item)) for item in error.errors()]
        raise JobError(str(path), faults, "docs/jobs.md lists every key") from None


def _fault(text: str, item: dict[str, Any]) -> str:
    """Return one line for a pydantic fault: key, line where known, what is wrong."""
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    line = line_of(text, location)
    where = f"{key} (line {line})" if line else key
    if item["type"] == "missing":
        return f"{where}: missing"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    shown = repr(item["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{where}: {message}, not {shown}"


def line_of(text: str, location: list[str]) -> int | None:
    """Return the line (from 1) on which the key at `location` stands in the TOML `text`."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if header:
            section = [part.strip(" \"'") for part in header[1].split(".")]
            if section == location:
                return number
            continue
        key = re.match(r"\s*([\w\".'-]+)\s*=", line)
        if key:
            full = [*section, *(part.strip("\"'") for part in key[1].split("."))]
            if full == location[: len(full)]:
                return number
    return None
