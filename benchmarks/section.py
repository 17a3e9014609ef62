"""The section of docs/benchmarks.md that benchmarks/microcontroller.py writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill


@dataclass(frozen=True)
class Row:
    """One network in the code of one generator on one core; `failure`: why there are no figures.

    `static_bytes`: all RAM but the stack, int8 input and output included. Differences are those of
    the outputs to onnxruntime in units of the last place; `differing` is the share of them above 0.
    """

    network: str
    column: str
    generator: str
    instructions: int | None = None
    flash_bytes: int = 0
    static_bytes: int = 0
    stack_bytes: int = 0
    largest_difference: int = 0
    differing: float = 0.0
    arena_bytes: int = 0
    scratch_bytes: int | None = None
    liveness_bytes: int | None = None
    remarks: tuple[str, ...] = ()
    failure: str = ""

    @property
    def ram_bytes(self) -> int:
        return self.static_bytes + self.stack_bytes

    def line(self) -> str:
        head = f"{self.network:14}{self.column:9}{self.generator:26}"
        if self.instructions is None:
            return f"{head} {self.failure}"
        return (
            f"{head}{self.instructions:13,} instructions{self.flash_bytes:10,} flash"
            f"{self.ram_bytes:11,} RAM  difference {self.largest_difference}"
            f" ({100 * self.differing:.1f} % differ)"
        )


@dataclass(frozen=True)
class Conditions:
    """Compiler, flags and emulator of each column, versions of packages, samples compared."""

    tools: dict[str, str]
    versions: dict[str, str]
    samples: int


def section(rows: Sequence[Row], conditions: Conditions) -> str:
    """Return the section as Markdown."""
    columns = list(dict.fromkeys(row.column for row in rows))
    networks = list(dict.fromkeys(row.network for row in rows))
    parts = [
        "## Microcontrollers: generated C code against two other generators",
        "",
        "    make bench-microcontroller",
        "",
        fill(
            "Each generator gets the same int8 network: the same weights, biases, scales and zero"
            " points. Its code is compiled with the same compiler and flags and emulated with the"
            " same harness. Instructions are those of one inference, int8 in and int8 out: exact,"
            " emulated, not cycles. RAM is all that an application sets aside, int8 input and"
            " output, scratch and the painted stack included; flash is code and constants. The"
            " difference is the largest one of the outputs to onnxruntime's on"
            f" {conditions.samples} inputs, in units of the last place of int8, over all columns."
            " bakenn and CMSIS-NN scale with fixed-point multipliers where onnxruntime scales in"
            " single precision, so that they round some results to the other side.",
            100,
        ),
        "",
    ]
    notes: list[str] = []
    for name in networks:
        parts += _table(name, [row for row in rows if row.network == name], columns, notes)
    if notes:
        parts += [f"{index}. {note}" for index, note in enumerate(notes, 1)] + [""]
    parts += _memory([row for row in rows if row.generator == "edgeprune"], columns)
    parts += ["Conditions: " + ", ".join(f"{n} {v}" for n, v in conditions.versions.items()) + "."]
    parts += [f"- {column}: `{text}`" for column, text in conditions.tools.items()]
    return "\n".join(parts)


def _table(name: str, rows: Sequence[Row], columns: Sequence[str], notes: list[str]) -> list[str]:
    first = columns[0]
    heads = [*columns, f"flash, {first}", f"RAM, {first}", "difference"]
    lines = [f"| {name} | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for generator in dict.fromkeys(row.generator for row in rows):
        found = {row.column: row for row in rows if row.generator == generator}
        marks = _marks([note for row in found.values() for note in row.remarks], notes)
        cells = []
        for column in columns:
            row = found[column]
            if row.instructions is None:
                cells.append("none" + _marks([row.failure.replace("\n", "; ")], notes))
            else:
                cells.append(f"{row.instructions:,}")
        head = found[first]
        known = head.instructions is not None
        cells += [f"{head.flash_bytes:,}", f"{head.ram_bytes:,}"] if known else ["", ""]
        worst = [r.largest_difference for r in found.values() if r.instructions is not None]
        cells.append(str(max(worst)) if worst else "")
        lines.append(f"| {generator}{marks} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _marks(texts: Sequence[str], notes: list[str]) -> str:
    """Return the references to notes, which are added where they are new."""
    marks = []
    for text in dict.fromkeys(texts):
        if text not in notes:
            notes.append(text)
        marks.append(str(notes.index(text) + 1))
    return f" ({', '.join(marks)})" if marks else ""


def _memory(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Return where the RAM of edgeprune's code goes, for the kinds of kernels there are."""
    shown = [columns[0], *(column for column in columns[1:] if column == "M55")]
    lines = [
        "RAM of edgeprune's code. No arena can be smaller than the liveness bound, the largest sum",
        "of tensors alive in one step:",
        "",
        "| network, core | liveness bound | arena | scratch | canaries and status | stack | all |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.column not in shown or row.instructions is None or row.scratch_bytes is None:
            continue
        others = row.static_bytes - row.arena_bytes - row.scratch_bytes
        figures = [row.liveness_bytes, row.arena_bytes, row.scratch_bytes, others]
        figures += [row.stack_bytes, row.ram_bytes]
        cells = " | ".join(f"{figure:,}" for figure in figures if figure is not None)
        lines.append(f"| {row.network}, {row.column} | {cells} |")
    return [*lines, ""]
