"""The screen: progress, tables, warnings and errors, all on standard error."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from edgeprune.errors import EdgepruneError
from edgeprune.report import figures, summary, transforms
from edgeprune.report.progress import Stage

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    from edgeprune.records import (
        Comparison,
        CostTable,
        Gate,
        Kind,
        ModelProfile,
        Parity,
        ProfileDifference,
        SensitivityCurve,
        SkippedGroup,
        Unit,
        Verdict,
        WidthPlan,
    )

WIDTH_WITHOUT_TERMINAL = 120
BAR = 12


class Console:
    """Everything that people see of a run.

    All of it goes to standard error. `NO_COLOR` turns escape codes off. `quiet` leaves results,
    warnings and errors; `verbose` adds `detail`.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose

    @cached_property
    def rich(self) -> RichConsole:
        """The console of rich behind this one."""
        from rich.console import Console as RichConsole

        width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else WIDTH_WITHOUT_TERMINAL
        colors: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        console = RichConsole(
            stderr=True,
            width=width,
            markup=False,
            highlight=False,
            emoji=False,
            color_system=colors,
        )
        console.on_broken_pipe = _left  # type: ignore[method-assign]
        return console

    @property
    def live(self) -> bool:
        """Whether progress bars can be drawn: a terminal that takes escape codes."""
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "") in ("", "dumb")
        return sys.stderr.isatty() and not plain and not self.quiet

    def line(self, text: str, style: str = "") -> None:
        """Print one line of text as it is."""
        if self.live or style:
            self.rich.print(_plain(text), style=style or None, soft_wrap=True)
        else:
            print(_plain(text), file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Show that the stage `title` is under way, and how long it took."""
        stage, started = Stage(self, title), time.monotonic()
        stage.start()
        how = "stopped after"
        try:
            yield stage
            how = "done in"
        finally:
            stage.finish(f"{how} {time.monotonic() - started:.1f} s")

    def skipped(self, title: str) -> None:
        """Say that an earlier run finished this stage."""
        if not self.quiet:
            self.line(f"{title}: finished earlier, skipped")

    def info(self, text: str) -> None:
        """Say something that is neither a result nor a warning."""
        if not self.quiet:
            self.line(text)

    def detail(self, text: str) -> None:
        """Say something that only `verbose` wants to know."""
        if self.verbose and not self.quiet:
            self.line(text, "dim")

    def warning(self, text: str) -> None:
        """Warn."""
        self.line(f"warning: {text}", "yellow")

    def error(self, error: EdgepruneError | str) -> None:
        """Say what went wrong, and on the next line what to do about it."""
        what, hint = (error, "") if isinstance(error, str) else (error.what, error.hint)
        self.line(f"error: {what}", "bold red")
        if hint:
            self.line(f"  {hint}")

    def profile(self, profile: ModelProfile) -> None:
        """Show the layers of a profile by cost, and below them what holds for the whole."""
        from edgeprune.report.profile_screen import show

        show(self, profile)

    def difference(self, difference: ProfileDifference) -> None:
        """Show what changed from an earlier profile to this one."""
        from edgeprune.report.profile_screen import show_difference

        show_difference(self, difference)

    def plan(self, plan: WidthPlan, table: CostTable, alone: Sequence[SkippedGroup] = ()) -> None:
        """Show each group's width before and after, the prediction, and the rounds.

        `alone` are all groups that are never cut.
        """
        from edgeprune.report.plan_screen import show

        show(self, plan, table, alone)

    def sensitivity(
        self,
        curves: Sequence[SensitivityCurve],
        chosen: Mapping[str, SensitivityCurve],
        metric: str,
        rankings: Mapping[str, str],
        *,
        agreed: float | None = None,
        measured: bool = True,
    ) -> None:
        """Show what cutting a group alone costs at its widths, by its best curve."""
        from edgeprune.report.sensitivity_screen import show

        show(self, curves, chosen, metric, rankings, agreed=agreed, measured=measured)

    def verdict(
        self, verdict: Verdict, out: Path | None = None, alone: Sequence[SkippedGroup] = ()
    ) -> None:
        """Show dense against slim, the ratio, parity and gates; the last lines say how it ended.

        `alone` are groups that were left alone, since they have no prices.
        """
        table = _table("", ">dense", ">slim", ">change", "how sure")
        for row in summary.compared(verdict, verdict.precision or ""):
            _add(table, row.what, row.dense, row.slim, row.change, row.doubt)
        judged = summary.gates(verdict)
        notes = any(gate.note for gate in judged)
        gates = _table("gate", "", ">value", ">limit", *(["note"] if notes else []))
        for gate in judged:
            style = {"met": "green", "not met": "bold red"}.get(gate.state, "yellow")
            note = [gate.note] if notes else []
            _add(gates, gate.name, _styled(gate.state, style), gate.value, gate.limit, *note)
        ratio = verdict.speedup
        sure = summary.ratio_doubt(verdict)
        self.title(f"{verdict.job} on {verdict.device}", verdict.kind)
        self.rich.print(table)
        self.facts(
            (
                summary.ratio_name(verdict),
                f"{figures.ratio(ratio.median, ratio.high - ratio.low)}, {sure}",
            ),
            ("parity", _parity(verdict.parity)),
            *([("widths", widths)] if (widths := summary.widths(verdict)) else []),
            *([("left alone", summary.left_alone(alone))] if alone else []),
        )
        if steps := summary.steps(verdict):
            history = _table("step", ">cost", ">limit", ">recalibrated", ">recovered (validation)")
            for step in steps:
                _add(history, *step)
            self.rich.print(history)
        self.rich.print(gates)
        for text in filter(None, (*transforms.sentences(verdict), summary.attempts(verdict))):
            self.line(text)
        self.line(summary.outcome(verdict), "bold green" if verdict.passed else "bold red")
        self._note(verdict.note)
        for command in summary.commands(verdict):
            where = f"cd {shlex.quote(str(out))} && " if out else ""
            self.line(f"to measure it on the device: {where}{command}")
        if out is not None:
            self.line(f"files: {out}")

    def comparison(
        self,
        comparison: Comparison,
        parity: Parity,
        first: str,
        second: str,
        kind: Kind,
        unit: Unit,
        gates: Sequence[Gate] = (),
        note: str = "",
    ) -> None:
        """Show the paired comparison of two files, what its device is, and what would settle it."""
        c, proves = comparison, all(g.met is not None for g in gates if summary.is_ratio(g))
        self.title(f"{first} against {second}", kind)
        stopped = {
            "enough": "the interval was narrow enough",
            "time": "the time allowed ran out",
            "exact": "the formula repeats itself" if kind == "estimated" else "counts are exact",
        }
        sure = figures.doubt(c.low, c.high, c.confidence, kind)
        counted = f"{c.processes} processes{summary.left_out(c)}"
        named = f"{figures.ratio(c.median, c.high - c.low)}, {sure}"
        if c.low <= 1 <= c.high and c.low != c.high:
            named += "; not significant"
        self.facts(
            (first, f"{figures.cost(c.first_cost, unit)}, {kind}, median over the pairs"),
            (second, f"{figures.cost(c.second_cost, unit)}, {kind}, median over the pairs"),
            (figures.ratio_name(kind, proves), named),
            ("ratio of the floors", figures.ratio(c.minimum_ratio)),
            ("pairs", f"{c.pairs} in {counted}; {stopped[c.stopped]}"),
            ("parity", _parity(parity)),
            *(("ratio of costs", gate.note) for gate in gates if gate.met is None),
        )
        self._note(note)
        for gate in gates:
            if gate.met is None and gate.command:
                self.line(f"to measure it on the device: {gate.command}")

    def devices(self, rows: Sequence[tuple[str, str, str, str]]) -> None:
        """Show known devices: name, title, kind of figure, status."""
        table = _table("device", "what it is", "figures", "status")
        for name, title, figure, status in rows:
            _add(table, name, title, figure, status)
        self.rich.print(table)

    def methods(self, rows: Sequence[tuple[str, str, str, str]]) -> None:
        """Show every method: kind, name, status, what it does."""
        table = _table("kind", "name", "status", "what it does")
        for row in rows:
            _add(table, *row)
        self.rich.print(table)

    def checks(self, rows: Sequence[tuple[str, bool, str, str]]) -> None:
        """Show what this machine can do: what, whether, details, the command that helps."""
        table = _table("what", "", "details", "what helps")
        for what, fine, details, command in rows:
            mark = _styled("ok", "green") if fine else _styled("missing", "yellow")
            _add(table, what, mark, details, "" if fine else command)
        self.rich.print(table)

    def table(self, *columns: str) -> Table:
        """Return an empty table; a column whose title starts with '>' is right-aligned."""
        return _table(*columns)

    def row(self, table: Table, *cells: str) -> None:
        """Add a row of plain text."""
        _add(table, *cells)

    def title(self, text: str, kind: Kind) -> None:
        """Print a heading that says where the figures come from."""
        self.rich.print()
        self.rich.print(_plain(text), style="bold", end="")
        self.rich.print(f"  {figures.kind_text(kind)}", style="dim", soft_wrap=True)

    def facts(self, *rows: tuple[str, str]) -> None:
        """Print names with their texts."""
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", overflow="fold")
        table.add_column(overflow="fold")
        for name, text in rows:
            _add(table, name, text)
        self.rich.print(table)
        self.rich.print()

    def _note(self, text: str) -> None:
        """Print what a reader of the figures must know of their device, if anything."""
        if text:
            self.line(text[:1].upper() + text[1:] + ".")

    def bar(self, share: float) -> str:
        """Return a bar as long as `share` of the whole."""
        block, half = ("#", "") if self.rich.options.ascii_only else ("█", "▌")
        halves = round(2 * BAR * min(1.0, max(0.0, share)))
        return block * (halves // 2) + half * (halves % 2)


def _table(*columns: str) -> Table:
    """Return an empty table; a column whose title starts with '>' is right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    return table


def _styled(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(_plain(text), style=style)


def _add(table: Table, *cells: str | Text) -> None:
    table.add_row(*(_styled(cell) if isinstance(cell, str) else cell for cell in cells))


def _plain(text: str) -> str:
    """Return `text` without control characters: names come from files that others wrote."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def _parity(parity: Parity) -> str:
    """Return what parity found; differences are the largest over all samples, hence exact."""
    state = "holds" if parity.passed else "does not hold"
    note = f"; {parity.note}" if parity.note else ""
    return (
        f"{state}: largest difference {parity.max_abs:.2g}, relative {parity.max_rel:.2g}, "
        f"over {parity.samples} samples{note}"
    )


def _left() -> None:
    """Tell that nobody reads the output any more; rich on its own would end with exit code 1."""
    raise BrokenPipeError


@contextmanager
def guarded_stdout(guard: bool) -> Iterator[TextIO]:
    """Yield the real stdout; meanwhile whatever else writes to descriptor 1 lands on stderr."""
    if not guard:
        yield sys.stdout
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(real, "w", encoding="utf-8", closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
