"""How the importance of the channels of each group is spread, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records import ScoreSpread
from edgeprune.report import svg

COLUMNS, GAP, HEIGHT, TOP, BINS = 3, 26, 84, 44, 16


def histograms(spreads: Sequence[ScoreSpread], *, title: str) -> str:
    """Return one panel a group: how many channels have which score, those that go set apart.

    Each panel has its own axes, since scores of different groups are not comparable. Kept channels
    stand on the axis, removed ones, outlined, on top of them.
    """
    width = (svg.WIDTH - GAP * (COLUMNS - 1)) / COLUMNS
    parts = [
        svg.rect(0, 4, 12, 12, svg.SLIM),
        svg.text(18, 14, "stays"),
        svg.rect(74.5, 4.5, 11, 11, svg.TRACK, stroke=svg.DENSE),
        svg.text(92, 14, "goes"),
    ]
    for index, spread in enumerate(spreads):
        x0 = (index % COLUMNS) * (width + GAP)
        y0 = TOP + (index // COLUMNS) * (HEIGHT + 58)
        name = f"{spread.group}, {spread.criterion}"
        parts.append(svg.text(x0, y0 - 8, svg.shortened(name, width), bold=True, full=name))
        parts += _panel(spread, x0, y0, width)
    rows = -(-len(spreads) // COLUMNS)
    return svg.chart(title, TOP + rows * (HEIGHT + 58) - 30, parts)


def counts(spread: ScoreSpread, bins: int = BINS) -> list[tuple[int, int]]:
    """Return (channels that stay, channels that go) in each of `bins` equal ranges of score."""
    low, high = min(spread.scores), max(spread.scores)
    found = [[0, 0] for _ in range(bins)]
    kept = set(spread.kept)
    for channel, score in enumerate(spread.scores):
        place = int(bins * (score - low) / (high - low)) if high > low else 0
        found[min(place, bins - 1)][channel not in kept] += 1
    return [(stay, go) for stay, go in found]


def _panel(spread: ScoreSpread, x0: float, y0: float, width: float) -> list[str]:
    found = counts(spread)
    most = max(stay + go for stay, go in found)
    step = width / len(found)
    parts = []
    for place, (stay, go) in enumerate(found):
        x, unit = x0 + place * step, HEIGHT / most
        base = y0 + HEIGHT
        if stay:
            parts.append(svg.rect(x + 1, base - stay * unit, step - 2, stay * unit, svg.SLIM))
        if go:
            top = base - (stay + go) * unit
            parts.append(
                svg.rect(x + 1.5, top + 0.5, step - 3, go * unit - 1, svg.TRACK, stroke=svg.DENSE)
            )
    parts.append(svg.line(x0, y0 + HEIGHT, x0 + width, y0 + HEIGHT, svg.DENSE))
    low, high = min(spread.scores), max(spread.scores)
    parts.append(svg.text(x0, y0 + HEIGHT + 15, f"{low:.3g}"))
    parts.append(svg.text(x0 + width / 2, y0 + HEIGHT + 15, f"up to {most} channels", "middle"))
    parts.append(svg.text(x0 + width, y0 + HEIGHT + 15, f"{high:.3g}", "end"))
    return parts
