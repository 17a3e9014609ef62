"""The sections of a job file, each with its defaults and limits."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from edgeprune.budget import parse_amount, parse_budget
from edgeprune.errors import UsageError
from edgeprune.methods import MethodKind, names, unknown

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _factory(text: str) -> str:
    if not FACTORY.fullmatch(text):
        raise ValueError(f'{text!r} is not of the form "module:function"')
    return text


def job_name(text: str) -> str:
    """Return the name of a job, which also names a folder.

    Raises:
        ValueError: it holds other characters than letters, digits, '.', '_' and '-'.
    """
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r} must be letters, digits, '.', '_' or '-' (it names a folder)")
    return text


def _budget(text: str) -> str:
    try:
        parse_budget(text)
    except UsageError as error:
        raise ValueError(f"{error.what}; {error.hint}") from None
    return text


def _amount(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError('a share ("50%", "2x") or a count ("12M", "350k", 120000)')
    text = value if isinstance(value, str) else f"{value:f}"
    try:
        parse_amount(text)
    except UsageError as error:
        raise ValueError(f"{error.what}; {error.hint}") from None
    return text if isinstance(value, str) else f"{value}"


Amount = Annotated[str, BeforeValidator(_amount)]
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
    """What the slim model may cost; `max_accuracy_drop` is absolute, of the metric.

    Several limits may stand at once. Without `latency` the others decide, and the slim model must
    not be slower than the dense one.
    """

    latency: Annotated[str, AfterValidator(_budget)] | None = None
    macs: Amount | None = None
    parameters: Amount | None = None
    ram_kb: float | None = Field(default=None, gt=0)
    flash_kb: float | None = Field(default=None, gt=0)
    max_accuracy_drop: float = Field(default=0.01, ge=0, le=1)

    @property
    def asked(self) -> str:
        """All limits in one line: "50%" where there is only one of latency."""
        names = ("latency", "macs", "parameters", "ram_kb", "flash_kb")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if list(given) == ["latency"]:
            return str(self.latency)
        return ", ".join(f"{name} {value}" for name, value in given.items())

    def limit_of(self, name: Literal["macs", "parameters"], dense: float) -> float:
        """Return a limit as a count, where the dense model has `dense` of it."""
        request = parse_amount(getattr(self, name))
        return request.share * dense if request.share is not None else request.absolute or 0.0


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


ROUNDING = ("uniform", "global", "isomorphic")  # allocations that know `round_to`


class PruneSection(Section):
    """How to choose what goes; `auto` tries Taylor and L2 and keeps the better one per group.

    `round_to` rounds widths down to its multiples, for the allocations of torch-pruning.
    """

    importance: Annotated[str, _known("importance")] = "auto"
    fused: FusedSection = FusedSection()
    loss: Literal["sensitivity", "importance"] = "sensitivity"
    allocation: Annotated[str, _known("allocation")] = "exact"
    round_to: int | None = Field(default=None, ge=1)
    keep: tuple[str, ...] = ()
    calibration_samples: int = Field(default=512, ge=1)

    @field_validator("round_to")
    @classmethod
    def _rounds(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("allocation") not in (None, *ROUNDING):
            raise ValueError(
                f"only allocation {', '.join(ROUNDING)} rounds; the others know the device's stairs"
            )
        return value


class RecoverSection(Section):
    """How accuracy is won back; `distill` learns from the dense model's outputs as well.

    With `reconstruct`, layers behind a cut are first re-fitted by least squares, without labels.
    `adam` (AdamW) suits recurrent layers and transformers, with a learning rate near 0.003.
    """

    reconstruct: bool = False
    steps: int = Field(default=400, ge=0)
    distill: bool = True
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0)
    temperature: float = Field(default=4.0, gt=0)
    distill_weight: float = Field(default=0.9, ge=0, le=1)


class ExportSection(Section):
    """How the model is written; `precision` is that in which it runs on the device."""

    precision: Literal["float32", "int8"] = "float32"
    opset: int = Field(default=20, ge=18, le=23)
