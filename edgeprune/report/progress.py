"""How far a stage has come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from edgeprune.report.console import Console

LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.2


class Stage:
    """Progress of one stage: a bar on a terminal, now and then a line elsewhere.

    The bar is redrawn by `update` and `note` alone: a thread that redraws it would take time from
    what is being measured.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._last, self._told = time.monotonic(), ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def update(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` steps are behind us."""
        text = f"{done}/{total}" + (f" {note}" if note else "")
        self._show(text, done, total)

    def note(self, text: str) -> None:
        """Say what is being done right now."""
        self._show(text)

    def _show(self, text: str, done: int | None = None, total: int | None = None) -> None:
        now = time.monotonic()
        every = REDRAW_EVERY_S if self._bar else LINE_EVERY_S
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=text)
        if now - self._last < every:
            return
        self._last = now
        if self._bar is not None:
            self._bar.refresh()
        elif not self._console.quiet and text != self._told:  # nothing new is no line
            self._told = text
            self._console.line(f"{self._title}: {text}")

    def start(self) -> None:
        """Begin: a bar, or a line with the title."""
        if self._console.quiet:
            return
        if not self._console.live:
            self._console.line(f"{self._title} …")
            return
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24, complete_style="cyan", pulse_style="dim"),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self._console.rich,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task(self._title, total=None, note="")
        self._bar.start()
        self._bar.refresh()

    def finish(self, how: str) -> None:
        """End: take the bar away and say `how` it went."""
        if self._bar is not None:
            self._bar.stop()
        if not self._console.quiet:
            self._console.line(f"{self._title}: {how}")
