"""The sections of a job file, each with its defaults and limits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edgeprune.budget import parse_amount, parse_budget
from edgeprune.errors import UsageError
from edgeprune.methods import MethodKind, names, unknown
from edgeprune.records import Microcontroller

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
    text = value if isinstance(value, str) else format(Decimal(str(value)), "f")  # never 1e+16
    try:
        parse_amount(text)
    except UsageError as error:
        raise ValueError(f"{error.what}; {error.hint}") from None
    return text


Amount = Annotated[str, BeforeValidator(_amount)]
Factory = Annotated[str, AfterValidator(_factory)]


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types that a field takes, besides sequences."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _kinds(inner[0])
    if inner and get_origin(annotation) in (Union, UnionType):
        return set[Any]().union(*map(_kinds, inner))
    return {annotation}


class Section(BaseModel):
    """Base of the sections of a job: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: object, info: ValidationInfo) -> object:
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        wrong = bool if str in kinds else bool | str
        if isinstance(value, wrong) and kinds & {int, float} and type(value) not in kinds:
            raise ValueError(f"should be a number, not {value!r}")
        if kinds == {bool} and not isinstance(value, bool):
            raise ValueError(f"should be true or false, not {value!r}")
        return value


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

    def memory(self, chip: Microcontroller | None) -> dict[Literal["ram", "flash"], float]:
        """Return the limits of RAM and flash in KiB: the job's and the board's, the smaller one."""
        found: dict[Literal["ram", "flash"], float] = {}
        limits: tuple[tuple[Literal["ram", "flash"], float | None, int | None], ...] = (
            ("ram", self.ram_kb, chip.ram_kb if chip else None),
            ("flash", self.flash_kb, chip.flash_kb if chip else None),
        )
        for name, own, board in limits:
            if given := [limit for limit in (own, board) if limit is not None]:
                found[name] = min(given)
        return found

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


Share = Annotated[float, Field(gt=0, lt=1)]
Layer = Annotated[str, Field(min_length=1)]
Family = Literal["base", "activation", "gradient", "cooperation"]


class FusedSection(Section):
    """How importance `fused` is put together; at most `batches` batches of 32 samples are used.

    `removals` is how many sets of channels a group loses, one after the other, for `learned`.
    """

    fusion: Annotated[str, _known("fusion")] = "simple"
    families: Annotated[tuple[Family, ...], Field(min_length=1)] = get_args(Family)
    batches: int = Field(default=100, ge=1)
    removals: int = Field(default=6, ge=1)

    @field_validator("families")
    @classmethod
    def _once(cls, value: tuple[Family, ...]) -> tuple[Family, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each family once")
        return value


AUTO = ("taylor", "l2", "fpgm", "output_error", "refit_error")  # what importance "auto" tries
ROUNDING = ("uniform", "global", "isomorphic")  # allocations that know `round_to`
KNOWING = {  # key -> the allocations that know it, and what they do
    "round_to": (ROUNDING, "rounds; the others know the device's stairs"),
    "normalise": (ROUNDING[1:], "ranks several groups together"),
}


def _criteria(value: Any) -> Any:
    """Return what `importance` names as a tuple, of which "auto" may be one."""
    listed = (value,) if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
        raise ValueError('a criterion, or a list of them: ["taylor", "l2"]')
    for name in listed:
        if name not in names("importance"):
            raise ValueError(unknown("importance", name))
    if not (found := expanded(listed)):
        raise ValueError("at least one criterion")
    if twice := [name for name in found if found.count(name) > 1]:
        raise ValueError(f'each criterion once, "auto" stands for some: {twice[0]} comes twice')
    return tuple(listed)


def expanded(importance: Sequence[str]) -> tuple[str, ...]:
    """Return the criteria that `importance` names; "auto" stands for AUTO."""
    return tuple(one for name in importance for one in (AUTO if name == "auto" else (name,)))


class PruneSection(Section):
    """How to choose what goes; of several criteria the best one of each group is kept.

    `probes` is how many vectors the traces of importance `hessian` are estimated with, at least:
    every batch of 32 samples gets the same number, one or more. `round_to` rounds widths down to
    its multiples, for the allocations of torch-pruning; `normalise` makes scores comparable where
    one ranking spans groups. `polish` changes the exact allocator's plan where that lowers the loss
    of the whole plan at the same cost, and tries several with a short recovery; with another
    allocation, or with `loss = "importance"`, there is nothing to polish.
    """

    importance: Annotated[tuple[str, ...], BeforeValidator(_criteria)] = ("auto",)
    probes: int = Field(default=32, ge=1)
    fused: FusedSection = FusedSection()
    loss: Literal["sensitivity", "importance"] = "sensitivity"
    allocation: Annotated[str, _known("allocation")] = "exact"
    round_to: int | None = Field(default=None, ge=1)
    normalise: Annotated[str, _known("normalisation")] = "mean"
    keep: tuple[Layer, ...] = ()
    floors: dict[Layer, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    blocks: bool = True
    polish: bool = True
    calibration_samples: int = Field(default=512, ge=1)

    @field_validator("round_to", "normalise")
    @classmethod
    def _heeded(cls, value: int | str | None, info: ValidationInfo) -> int | str | None:
        knowing, what = KNOWING[info.field_name or ""]
        if value is not None and info.data.get("allocation") not in (None, *knowing):
            raise ValueError(f"only allocation {', '.join(knowing)} {what}")
        return value

    @model_validator(mode="after")
    def _polishes(self) -> PruneSection:
        asked = self.polish and "polish" in self.model_fields_set
        if asked and (self.allocation != "exact" or self.loss != "sensitivity"):
            raise ValueError(
                'polish lowers the measured loss of the exact plan: it needs allocation = "exact" '
                'and loss = "sensitivity"'
            )
        return self


class MaskSection(Section):
    """Masks of torch.nn.utils.prune; `auto` is what gains on the device.

    `amount` is the share of weights (of channels for `ln_structured`) that become zero; `iterative`
    takes several, each of what the one before left.
    """

    kind: Annotated[str, _known("mask")] = "auto"
    amount: Share | Annotated[tuple[Share, ...], Field(min_length=1)] = 0.5

    @property
    def amounts(self) -> tuple[float, ...]:
        """The amounts in order."""
        return self.amount if isinstance(self.amount, tuple) else (self.amount,)

    @model_validator(mode="after")
    def _one_amount(self) -> MaskSection:
        if isinstance(self.amount, tuple) and self.kind != "iterative":
            raise ValueError(f'kind = "{self.kind}" takes one amount, only "iterative" several')
        return self


class CollapseSection(Section):
    """Linear collapse: `max_error` is the squared error over the variance of the layers' output."""

    enabled: bool = False
    max_error: float = Field(default=0.05, gt=0, le=1)
    ridge: float = Field(default=1e-3, ge=0)


def _amounts(value: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    epochs = [epoch for epoch, _ in value]
    if value and (epochs[0] != 0 or epochs != sorted(set(epochs))):
        raise ValueError("epochs start with 0 and rise")
    if any(amount <= 0 for _, amount in value) or sum(amount for _, amount in value) >= 1:
        raise ValueError("amounts are above 0 and add up to less than 1")
    return value


OF_SCHEDULE = {  # key -> the schedules that know it
    "cuts": ("iterative",),
    "stages": ("progressive",),
    "steps": ("progressive", "lottery"),
    "least_share": ("progressive",),
    "rounds": ("lottery",),
    "rewind": ("lottery",),
    "early_steps": ("lottery",),
}


class ScheduleSection(Section):
    """In how many steps the budget is reached; importance is estimated anew before each.

    `cuts` are (epoch, amount): at the start of that epoch of training, a further share of the dense
    cost goes. `stages` (and `rounds`) each take the same part of the cost that is left. Between
    them, `steps` of recovery; after the last, those of [recover].
    """

    kind: Annotated[str, _known("schedule")] = "one_shot"
    cuts: Annotated[tuple[tuple[int, float], ...], AfterValidator(_amounts)] = ()
    stages: int = Field(default=3, ge=2)
    steps: int = Field(default=200, ge=0)
    least_share: float = Field(default=0.8, ge=0, le=1)
    rounds: int = Field(default=3, ge=1)
    rewind: Literal["initial", "early"] = "initial"
    early_steps: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> ScheduleSection:
        alien = [
            key
            for key in self.model_fields_set
            if self.kind not in OF_SCHEDULE.get(key, (self.kind,))
        ]
        if alien:
            raise ValueError(f"schedule {self.kind} knows no {', '.join(sorted(alien))}")
        if self.kind == "iterative" and not self.cuts:
            raise ValueError("schedule iterative needs cuts = [[epoch, amount], ...]")
        return self


class RegulariseSection(Section):
    """Training that drives channels towards zero before they are cut; needs training data."""

    kind: Annotated[str, _known("regularisation")]
    steps: int = Field(default=400, ge=1)
    strength: float = Field(default=1e-4, gt=0)
    learning_rate: float = Field(default=0.01, gt=0)


class GuardsSection(Section):
    """What the finished model must keep, besides [budget] max_accuracy_drop.

    `class_floor` is the least share of each class's samples that it must still get right,
    `agreement` the least share of samples on which its answer is the dense model's; `layers` are
    never cut, and checked at the end.
    """

    class_floor: float | None = Field(default=None, ge=0, le=1)
    agreement: float | None = Field(default=None, ge=0, le=1)
    layers: tuple[Layer, ...] = ()


class RecoverSection(Section):
    """How accuracy is won back; `distill` learns from the dense model's outputs as well.

    Those are classes along axis 1 or the last, or values. With `reconstruct`, layers behind a cut
    are first re-fitted by least squares; by default so, but for masked models and the schedule
    lottery. `adam` (AdamW) suits recurrent layers and transformers, at a rate near 0.003.
    """

    reconstruct: bool = True
    steps: int = Field(default=400, ge=0)
    distill: bool = True
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0)
    temperature: float = Field(default=4.0, gt=0)
    distill_weight: float = Field(default=0.9, ge=0, le=1)
    outputs: Literal["auto", "classes", "classes_last", "values"] = "auto"

    @property
    def insists_on_reconstruction(self) -> bool:
        """Whether the job itself asks for reconstruction."""
        return self.reconstruct and "reconstruct" in self.model_fields_set


class ExportSection(Section):
    """How the model is written; `precision` is that in which it runs on the device."""

    precision: Literal["float32", "int8"] = "float32"
    opset: int = Field(default=20, ge=18, le=23)


class BenchSection(Section):
    """What only `edgeprune bench` needs.

    `narrower` is a factory with a parameter `width`, a factor on all widths of the network, and
    `dense_steps` the training steps that the dense weights took: baselines that are trained from
    scratch get as many, beside those of recovery.
    """

    narrower: Factory | None = None
    dense_steps: int = Field(default=0, ge=0)
