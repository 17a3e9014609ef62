"""What a report draws besides its tables."""

from __future__ import annotations

from edgeprune.records.base import Record
from edgeprune.records.plan import GroupList

Levels = tuple[tuple[int, ...], ...]


class ScoreSpread(Record):
    """Scores of the channels of a group by the criterion that the plan used, and which stay."""

    group: str
    criterion: str
    scores: tuple[float, ...]
    kept: tuple[int, ...]


class WeightPattern(Record):
    """Norms of a layer's weights by (output channel, input channel) before and after.

    `dense` and `slim` are in tenths of the largest norm of the dense layer, 10 at most, as means
    over neighbours where a side has more than 64 channels. `stays` says of each cell of `dense`
    whether at least half of it is left.
    """

    layer: str
    dense_shape: tuple[int, int]
    slim_shape: tuple[int, int]
    dense: Levels
    stays: tuple[tuple[bool, ...], ...]
    slim: Levels


class Views(Record):
    """Groups, scores and weights of a finished run, as far as they are there."""

    groups: GroupList | None = None
    spreads: tuple[ScoreSpread, ...] = ()
    patterns: tuple[WeightPattern, ...] = ()
