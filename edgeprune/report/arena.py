"""The arena of generated C code over the steps of an inference: who lies where, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.records import CSource, Footprint, Lifetime
from edgeprune.report import figures, svg
from edgeprune.report.charts import ticks

SUFFIX = "_QuantizeLinear_Output"
HEIGHT = 300.0
TOP, LEFT, RIGHT = 30.0, 66.0, 150.0  # room for the heading, the byte axis and the bar of the RAM
ROW = 13.0  # the least height that a line of text needs


@dataclass(frozen=True)
class Step:
    """A call of a layer's function: bytes alive during it, and the part of the scratch it needs."""

    layer: str
    operator: str
    alive_bytes: int
    scratch_bytes: int


def steps(code: CSource) -> tuple[Step, ...]:
    """Return the steps of an inference in order."""
    return tuple(
        Step(
            function.layer,
            function.operator,
            sum(life.bytes for life in code.lifetimes if life.first <= index <= life.last),
            function.scratch_bytes,
        )
        for index, function in enumerate(code.functions)
    )


def tensor_name(life: Lifetime) -> str:
    """Return the tensors that a place holds one after the other, as people know them."""
    return " + ".join(
        name.removesuffix(SUFFIX).removesuffix(":0") for name in life.tensor.split(" + ")
    )


def parts(code: CSource, footprint: Footprint | None) -> tuple[tuple[str, int], ...]:
    """Return what the RAM is made of, from the bottom: (name, bytes); the stack where it is known.

    "checks" are the canaries and what the kernels returned; "alignment" is what lies between all
    of them, and static memory of the kernels if they have any.
    """
    found = [
        ("arena", code.arena_bytes),
        ("scratch", code.scratch_bytes),
        ("checks", code.state_bytes),
    ]
    if footprint is not None:
        known = sum(size for _, size in found)
        found += [
            ("alignment", footprint.static_bytes - known),
            ("stack", footprint.stack_bytes),
        ]
    return tuple((name, size) for name, size in found if size > 0)


def timeline(code: CSource, footprint: Footprint | None, *, title: str) -> str:
    """Return the arena as a chart: across the steps, up the bytes; beside it the whole RAM.

    A rectangle is a tensor: it covers the bytes that belong to it in the steps in which they do.
    The dashed line is the liveness bound, below which no arena can be.
    """
    memory = parts(code, footprint)
    whole = sum(size for _, size in memory) or 1
    count = max(1, len(code.functions))
    width = svg.WIDTH - LEFT - RIGHT
    bottom = TOP + HEIGHT

    def across(step: float) -> float:
        return LEFT + width * step / count

    def up(size: float) -> float:
        return bottom - HEIGHT * size / whole

    elements = [
        svg.text(LEFT, 14, "arena, step by step", bold=True),
        svg.text(svg.WIDTH - RIGHT + 20, 14, f"RAM {figures.size(whole)}", bold=True),
        *_axes(count, across, up, whole, bottom),
        *(_tensor(number, life, across, up) for number, life in enumerate(code.lifetimes, 1)),
        *_bound(code.liveness_bytes, across(0), across(count), up),
        *_bar(memory, up),
    ]
    return svg.chart(title, bottom + 40, elements)


def _axes(count: int, across: svg.Scale, up: svg.Scale, whole: int, bottom: float) -> list[str]:
    found = [svg.text(across(count / 2), bottom + 34, "step: one layer each", "middle")]
    for size in ticks(0, whole / 1024, 5):
        if size * 1024 <= whole:
            y = up(size * 1024)
            found.append(svg.line(across(0), y, across(count), y, svg.GRID))
            found.append(svg.text(across(0) - 6, y + 4, f"{size:g} KiB", "end"))
    every = -(-count // 16)
    for step in range(0, count, every):
        found.append(svg.text(across(step + 0.5), bottom + 16, str(step), "middle"))
    return found


def _tensor(number: int, life: Lifetime, across: svg.Scale, up: svg.Scale) -> str:
    name = tensor_name(life)
    left, right = across(life.first), across(life.last + 1)
    top, low = up(life.offset + life.bytes), up(life.offset)
    hint = (
        f"{number}: {name}, bytes {life.offset} to {life.offset + life.bytes - 1}, "
        f"steps {life.first} to {life.last}"
    )
    drawn = svg.rect(left, top, right - left, low - top, svg.TRACK, stroke=svg.SLIM)
    room, rows = right - left - 6, int((low - top) / ROW)
    if room >= 9 * svg.CHARACTER:  # else there is the number alone, which the table explains
        lines = [svg.shortened(f"{number} {name}", room), figures.size(life.bytes)][:rows]
        first = (top + low) / 2 - ROW * (len(lines) - 1) / 2 + 4
        drawn += "".join(
            svg.text(left + 4, first + ROW * row, line) for row, line in enumerate(lines)
        )
    elif rows:
        drawn += svg.text((left + right) / 2, (top + low) / 2 + 4, str(number), "middle")
    return svg.hinted(drawn, hint)


def _bound(size: int, left: float, right: float, up: svg.Scale) -> list[str]:
    y = up(size)
    text = f"liveness bound {figures.size(size)}"
    return [
        svg.line(left, y, right + 12, y, svg.LIMIT, thick=2, dash="5 3"),
        svg.text(right, y - 6, text, "end"),
    ]


def _bar(memory: Sequence[tuple[str, int]], up: svg.Scale) -> list[str]:
    """Return the stacked bar of the RAM, with labels that do not touch."""
    left, width = svg.WIDTH - RIGHT + 20, 22.0
    found: list[str] = []
    start = sum(size for _, size in memory)
    last = up(start) - ROW / 2
    for index, (name, size) in reversed(list(enumerate(memory))):
        top, low = up(start), up(start - size)
        fill = svg.SLIM if index == 0 else svg.DENSE if index % 2 else svg.TRACK
        drawn = svg.rect(left, top, width, low - top, fill, stroke=svg.DENSE)
        found.append(svg.hinted(drawn, f"{name}: {size} bytes"))
        last = max((top + low) / 2 + 4, last + ROW)
        found.append(svg.text(left + width + 6, last, f"{name} {figures.size(size)}"))
        start -= size
    return found
