"""Tables that fit the terminal: what goes first, and how long names are shortened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from edgeprune.report.console import Console

Row = Mapping[str, str]
GAP = 3  # between columns
SHORTEST = 16  # of a name that is shortened
WRAPPED = 15  # of a column that is wrapped
TAILS = (0.5, 0.7, 0.3, 0.85, 0.15)  # share of a shortened name that is its end


def fit(titles: Sequence[str], rows: Sequence[Row], spare: Iterable[str], room: int) -> list[str]:
    """Return those of the columns that fit into `room`; of `spare` the first ones go first."""
    left = list(titles)
    for title in spare:
        if width(left, rows) <= room:
            break
        if title in left:
            left.remove(title)
    return left


def width(titles: Sequence[str], rows: Sequence[Row]) -> int:
    """Return the columns of text that a table of these columns takes."""
    from rich.cells import cell_len

    def lines(title: str) -> Iterable[str]:
        for text in (title, *(row.get(title, "") for row in rows)):
            yield from text.split("\n")

    return sum(max(map(cell_len, lines(title))) for title in titles) + GAP * len(titles)


def table(
    console: Console,
    titles: Sequence[str],
    rows: Sequence[Row],
    *,
    names: str,
    left: Sequence[str],
    wraps: Sequence[str] = (),
) -> Table:
    """Return the table of these columns; figures are never broken on 60 columns and more.

    Names are shortened where the rest leaves them too little room, and all stay different.

    Args:
        console: for which the table is.
        titles: of the columns.
        rows: title -> cell.
        names: the column of names.
        left: columns that are left-aligned, all others are figures.
        wraps: columns that may take several lines; they have the room that the others leave.
    """
    fixed = [title for title in titles if title not in (names, *wraps)]
    wrapped = [title for title in wraps if title in titles]
    room = console.rich.width - width(fixed, rows) - GAP * (1 + len(wrapped))
    least = sum(max(WRAPPED, _widest(rows, title)) for title in wrapped)
    short = distinct([row.get(names, "") for row in rows], max(SHORTEST, room - least))
    made = console.table(*(title if title in left else f">{title}" for title in titles))
    for title, column in zip(titles, made.columns, strict=True):
        column.no_wrap = title not in (names, *wraps)
    for name, row in zip(short, rows, strict=True):
        console.row(made, *(name if t == names else row.get(t, "") for t in titles))
    return made


def distinct(names: Sequence[str], room: int) -> list[str]:
    """Return the names with their middles left out where they are longer than `room`.

    Different names stay different: if need be more of the end or of the beginning is kept, or what
    lies around their first difference, and where nothing helps the names stay whole.
    """
    if max(map(len, names), default=0) <= room:
        return list(names)
    for tail in TAILS:
        short = [_shortened(name, room, tail) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    letters = zip(*(name for name in names if len(name) > room), strict=False)
    apart = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, letters))
    short = [_from(name, max(0, apart - room // 3), room) for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _shortened(name: str, room: int, tail: float) -> str:
    if len(name) <= room:
        return name
    end = max(1, round((room - 1) * tail))
    return f"{name[: room - 1 - end]}…{name[len(name) - end :]}"


def _from(name: str, start: int, room: int) -> str:
    """Return what of `name` lies around where such names begin to differ."""
    if len(name) <= room:
        return name
    if len(name) - start < room:
        return f"…{name[1 - room :]}"
    return f"…{name[start : start + room - 2]}…"


def _widest(rows: Sequence[Row], title: str) -> int:
    """Return the length of the longest word in a column."""
    words: Callable[[str], list[str]] = str.split
    cells = [title, *(row.get(title, "") for row in rows)]
    return max((len(word) for text in cells for word in words(text)), default=0)
