"""What can be compared: an allocator, the importance that ranks, and rounding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.allocation.registry import ALLOCATORS, allocator
from edgeprune.errors import UsageError
from edgeprune.methods import unknown
from edgeprune.sections import ROUNDING

OURS = "exact"
BASELINES = ("narrower", "scratch")
MULTIPLE = re.compile("(?=.*[1-9])[0-9]{1,6}")


@dataclass(frozen=True)
class Variant:
    """One thing to compare.

    Args:
        name: an allocator, or a baseline.
        criterion: the importance that ranks; None is the job's setting.
        round_to: widths are multiples of this.
    """

    name: str
    criterion: str | None = None
    round_to: int | None = None

    @property
    def label(self) -> str:
        """How it is written: NAME, NAME/IMPORTANCE, NAME/IMPORTANCE@ROUND."""
        importance = f"/{self.criterion}" if self.criterion else ""
        return f"{self.name}{importance}{f'@{self.round_to}' if self.round_to else ''}"

    @property
    def slug(self) -> str:
        """The label as part of a file's name."""
        return self.label.replace("/", "_").replace("@", "_")


def variant(text: str, criteria: Sequence[str]) -> Variant:
    """Return the variant that `text` names: NAME[/IMPORTANCE][@ROUND].

    Raises:
        UsageError: no such allocator or baseline, an importance that the job has no scores of or
            that `exact` would not heed, or rounding where there is none.
    """
    rest, _, rounding = text.strip().partition("@")
    name, _, criterion = rest.partition("/")
    if name not in BASELINES and name not in ALLOCATORS:
        known = (*ALLOCATORS, *BASELINES)
        raise UsageError(
            unknown("allocation", name, known), "write a method as NAME, NAME/IMPORTANCE or NAME@8"
        )
    if name == OURS and "/" in rest:
        raise UsageError(
            f"method {text!r}: {OURS} ranks each group by a criterion that it finds itself",
            f"write {OURS} alone; what it may choose from is [prune] importance of the job",
        )
    if "/" in rest and name in BASELINES:
        raise UsageError(
            f"method {text!r}: {name} cuts no channels, so no importance ranks them",
            f"write {name} alone",
        )
    if criterion and criterion not in criteria:
        raise UsageError(
            f"method {text!r}: the job scores channels by {', '.join(criteria)} only",
            'set [prune] importance, or leave it at "auto" for several',
        )
    if "@" in text and (name not in ROUNDING or not MULTIPLE.fullmatch(rounding)):
        whole = "write a whole number from 1 to 999999, as in global@8"
        raise UsageError(
            f"method {text!r}: @ gives the multiple that widths are rounded to, for "
            f"{', '.join(ROUNDING)}",
            whole if name in ROUNDING else f"write {rest}",
        )
    return Variant(name, criterion or None, int(rounding) if rounding else None)


def everything(criteria: Sequence[str]) -> tuple[Variant, ...]:
    """Return what is compared by default: all allocators, with each criterion, and the baselines.

    Torch-pruning's come without rounding and rounded to 8, the global one to 16 as well.
    """
    found = [Variant(OURS)]
    for name in ALLOCATORS:
        if name == OURS:
            continue
        if name in ROUNDING:
            rounds = (None, 8, 16) if name == "global" else (None, 8)
            found += [Variant(name, c, r) for c in criteria for r in rounds]
        elif allocator(name).spanning and len(criteria) > 1:
            found += [Variant(name, c) for c in criteria]
        else:
            found.append(Variant(name))
    return (*found, *(Variant(name) for name in BASELINES))
