"""Every error a user can meet, and the exit code it ends with.

    EdgepruneError
    |- UsageError              2   the request cannot be carried out as written
    |  |- JobError                 the job file; all of its faults at once
    |  |- UnknownDeviceError       no such profile; lists the known ones
    |  |- FactoryError             model or data factory cannot be imported or called
    |  |- WeightsError             weights missing, unreadable, unfitting or not finite
    |  |- DataError                data loader empty or of the wrong shape
    |  |- UserFunctionError        loss, metric or loader of the user fails
    |  |- UnscoredError            a criterion cannot score some groups of channels
    |  |- OutputError              output folder cannot be written
    |  `- ResumeError              the run folder belongs to another run, or another run holds it
    |- GateError               1   a budget, parity, accuracy or speed-up gate cannot be met
    |  `- BudgetError              the budget lies below the smallest reachable cost
    |- DeviceError             3   the device does not answer
    |  `- LostDeviceError          it did, and went away: what is finished is kept
    |- UnstableError           4   a measurement does not settle
    |- UnsupportedModelError   5   a layer that cannot be traced, priced, cut or exported
    |- InternalCheckError      5   a transform broke its own promise; nothing was shipped
    `- DeadlineError         124   the time allowed ran out

An interrupt from the keyboard ends with 130, a bug of edgeprune with 70 (cli.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

DONE = 0
INTERRUPTED = 130


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return '; did you mean ...?' where one of the `known` names is close to `name`, else ''."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class EdgepruneError(Exception):
    """Base of all errors meant for the user.

    Args:
        what: what is wrong, with file and key where there is one.
        hint: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  {self.hint}" if self.hint else self.what


class UsageError(EdgepruneError):
    """The request cannot be carried out as written."""

    exit_code = 2


class JobError(UsageError):
    """Faults of a job file, all of them.

    Args:
        path: the job file.
        faults: one line each: key, line where known, what is wrong.
    """

    def __init__(self, path: str, faults: Sequence[str], hint: str = "") -> None:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"{path}: {count}\n" + "\n".join(f"  - {f}" for f in faults), hint)
        self.faults = tuple(faults)


class UnscoredError(UsageError):
    """A criterion cannot score some groups of channels.

    Args:
        criterion: its name.
        reasons: group -> why not.
        hint: what to do about it.
    """

    def __init__(
        self,
        criterion: str,
        reasons: Mapping[str, str],
        hint: str = "keep the layer with [prune] keep, or take another criterion: edgeprune "
        "methods",
    ) -> None:
        (name, reason), *others = reasons.items()
        more = f"; nor {', '.join(other for other, _ in others)}" if others else ""
        super().__init__(f"importance {criterion} cannot score group {name}: {reason}{more}", hint)
        self.reasons = dict(reasons)


class UnknownDeviceError(UsageError):
    """No device profile has this name."""


class FactoryError(UsageError):
    """A model or data factory cannot be imported or called."""


class WeightsError(UsageError):
    """Weights are missing, unreadable, do not fit the model, or are not finite."""


class DataError(UsageError):
    """A data loader is empty or gives something other than (inputs, target)."""


class UserFunctionError(UsageError):
    """A loss, metric or loader that the user gave fails; says where."""


class OutputError(UsageError):
    """The output folder cannot be written."""


class ResumeError(UsageError):
    """The run folder belongs to another run, or another process is using it."""


class GateError(EdgepruneError):
    """A gate cannot be met."""

    exit_code = 1


class BudgetError(GateError):
    """The budget lies below the smallest cost that can be reached."""


class DeviceError(EdgepruneError):
    """The device does not answer, or answers with an error."""

    exit_code = 3


class LostDeviceError(DeviceError):
    """The device answered before, and went away in the middle of the work."""


class UnstableError(EdgepruneError):
    """A measurement does not settle within the time allowed."""

    exit_code = 4


class UnsupportedModelError(EdgepruneError):
    """A layer that cannot be traced, priced, cut or exported; says which and why."""

    exit_code = 5


class InternalCheckError(EdgepruneError):
    """A transform did not keep its promise; what it made is not used."""

    exit_code = 5


class DeadlineError(EdgepruneError):
    """The time allowed ran out."""

    exit_code = 124
