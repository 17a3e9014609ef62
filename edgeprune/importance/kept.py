"""Sensitivity curves kept on disk, group by group, under a hash of what they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from edgeprune.records import Sensitivity, SensitivityCurve
from edgeprune.store import CACHE, cache_folder, keep_text

FORM = 2  # of the measurement: raised when the same inputs give other curves


def default_folder() -> Path:
    """Return where curves are kept for this user."""
    return cache_folder() / "sensitivity"


@dataclass(frozen=True)
class CurveStore:
    """Keeps the curves of each group as soon as they are measured.

    Args:
        folder: where.
        base: hash of model, data, loss, samples and versions: all that the groups share.
        warn: told where curves cannot be kept; the job goes on without.
    """

    folder: Path
    base: str
    warn: Callable[[str], None] = lambda _: None

    def load(
        self, group: str, widths: Sequence[int], scores: Mapping[str, Tensor]
    ) -> tuple[SensitivityCurve, ...] | None:
        """Return the curves of `group` for these `widths` and criterion -> scores [width]."""
        try:
            text = self._path(group, widths, scores).read_bytes()
            curves = Sensitivity.model_validate_json(text).curves
        except (OSError, ValidationError):
            return None  # not there, or of another version: they are measured again
        return curves if _answers(curves, group, tuple(widths), tuple(scores)) else None

    def save(
        self,
        group: str,
        widths: Sequence[int],
        scores: Mapping[str, Tensor],
        curves: Sequence[SensitivityCurve],
    ) -> None:
        """Keep the finished `curves` of `group`."""
        text = Sensitivity(curves=tuple(curves)).model_dump_json()
        keep_text(self._path(group, widths, scores), text, CACHE, self.warn)

    def _path(self, group: str, widths: Sequence[int], scores: Mapping[str, Tensor]) -> Path:
        digest = hashlib.sha256(f"{FORM} {self.base} {group} {list(widths)}".encode())
        for criterion in scores:
            digest.update(criterion.encode() + scores[criterion].contiguous().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:40]}.json"


def _answers(
    curves: Sequence[SensitivityCurve],
    group: str,
    widths: tuple[int, ...],
    criteria: tuple[str, ...],
) -> bool:
    """Whether the curves are of this group, one a criterion, and one of them holds all widths."""
    return (
        tuple(curve.criterion for curve in curves) == criteria
        and all(curve.group == group and curve.widths[-1] == widths[-1] for curve in curves)
        and all(set(curve.widths) <= set(widths) for curve in curves)
        and any(curve.widths == widths for curve in curves)
    )
