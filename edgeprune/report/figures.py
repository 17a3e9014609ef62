"""Numbers to text: every cost with its unit, every figure with its interval or 'exact'."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.records import Kind, Shape, Unit

MICROSECONDS = "µs"
US = ((1e6, "s"), (1e3, "ms"), (1.0, MICROSECONDS))
TIMES = "\N{MULTIPLICATION SIGN}"
INSTRUCTIONS = ((1e9, "G instructions"), (1e6, "M instructions"), (1e3, "k instructions"))


@dataclass(frozen=True)
class Scale:
    """A unit fit for figures of one size: `value / factor` is shown with `name`."""

    factor: float
    name: str

    def text(self, value: float, spread: float = 0.0) -> str:
        """Return `value` without the unit, as finely as `spread` (same unit) warrants."""
        return number(value / self.factor, spread / self.factor)


def scale_of(unit: Unit, reference: float) -> Scale:
    """Return the scale in which a cost the size of `reference` (in `unit`) reads best."""
    for factor, name in US if unit == "us" else INSTRUCTIONS:
        if abs(reference) >= factor:
            return Scale(factor, name)
    return Scale(1.0, symbol(unit))


def symbol(unit: str) -> str:
    """Return how a unit is written for people: 'us' as µs, others as they are."""
    return MICROSECONDS if unit == "us" else unit


def number(value: float, spread: float = 0.0) -> str:
    """Return `value` with thousands separators.

    Digits go as far as the second one of half the `spread` (width of an interval), or to three
    significant ones where there is no spread.
    """
    size = spread / 2 if spread > 0 else abs(value)
    if size == 0:
        return "0"
    keep = 1 if spread > 0 else 2
    decimals = min(6, max(0, keep - math.floor(math.log10(size))))
    return f"{value:,.{decimals}f}"


def cost(value: float, unit: Unit) -> str:
    """Return a cost with its unit: '812 µs', '1.24 ms', '3.10 M instructions'."""
    scale = scale_of(unit, value)
    return f"{scale.text(value)} {scale.name}"


def cost_interval(
    value: float, low: float, high: float, unit: Unit, kind: Kind = "measured"
) -> str:
    """Return a cost with its interval: '812 µs [805, 823]'; counts can be exact, times never."""
    if low == high and kind == "estimated":
        return f"{cost(value, unit)}, by formula"
    if low == high and unit == "instructions":
        return f"{value:,.0f} instructions, exact"
    if low == high and value:  # a node shorter than what can be told from the profiler's own work
        return f"{cost(value, unit)}, not resolved"
    scale = scale_of(unit, value)
    value_, low_, high_ = (scale.text(x, high - low) for x in (value, low, high))
    return f"{value_} {scale.name} [{low_}, {high_}]"


def single(value: float, unit: Unit, kind: Kind) -> str:
    """Return a cost that has no interval, with what it is: a median, exact, or by formula."""
    if kind == "measured":
        return f"{cost(value, unit)} (median)"
    return cost_interval(value, value, value, unit, kind)


def ratio(value: float, spread: float = 0.0) -> str:
    """Return a ratio as a decimal number followed by the sign of multiplication."""
    decimals = 3 if 0 < spread < 0.02 else 2
    return f"{value:.{decimals}f}{TIMES}"


def doubt(low: float, high: float, confidence: float = 0.95, kind: Kind = "measured") -> str:
    """Return the interval of a ratio or score in words; 'exact', or for estimates 'by formula'."""
    if low == high:
        return "by formula, without an interval" if kind == "estimated" else "exact"
    return f"{percent(confidence)} interval {span(low, high)}"


def span(low: float, high: float) -> str:
    """Return the ends of the interval of a ratio: '2.019 to 2.036'."""
    decimals = 4 if high - low < 0.004 else 3 if high - low < 0.1 else 2
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def percent(share: float) -> str:
    """Return a share as '48 %', with a decimal below 10 %."""
    value = 100 * share
    text = f"{value:.0f}" if abs(value) >= 9.95 or value == round(value) else f"{value:.1f}"
    return f"{text} %"


def signed_percent(share: float) -> str:
    """Return a relative difference as '+3.1 %'."""
    return f"{100 * share:+.1f} %"


def count(value: int) -> str:
    """Return a count: in full below a million, otherwise as '39.1 M'."""
    for factor, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{number(value / factor)} {name}"
    return f"{value:,}"


def size(value: int | None) -> str:
    """Return a number of bytes as '512 B', '115.5 KiB' or '2.3 MiB'."""
    if value is None:
        return "not reported"
    for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{value / factor:,.1f} {name}"
    return f"{value} B"


def shape(dimensions: Shape) -> str:
    """Return a shape as its dimensions with signs of multiplication between them."""
    return TIMES.join(map(str, dimensions)) or "scalar"


def capital(text: str) -> str:
    """Return `text` with its first letter in upper case and all others as they are."""
    return text[:1].upper() + text[1:]


def ratio_name(kind: Kind, proves: bool = True) -> str:
    """Return what a ratio of two costs may be called.

    An estimate supports no speed-up, nor does a device whose times mean nothing (not `proves`).
    """
    if kind == "estimated":
        return "estimated ratio"
    return "speed-up" if proves else "ratio without meaning"


def kind_text(kind: Kind) -> str:
    """Return where figures of this kind come from, in a few words."""
    return {
        "measured": "measured on the device",
        "emulated": "emulated: exact counts, not time",
        "estimated": "estimated by a formula, not measured",
    }[kind]
