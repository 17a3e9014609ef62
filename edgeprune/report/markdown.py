"""Texts and tables in Markdown, and their place in a page that is otherwise written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeprune.errors import UsageError

TAG, ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"&(?=#?\w+;)")
# What would be emphasis, code, an escape or a link; `_` within a word, and a lone `*`, are none.
MARK = re.compile(
    r"`|(?<![^\W_])_|_(?![^\W_])|\*(?!\s)|(?<!\s)\*|\\(?=[!-/:-@\[-`{-~])|\[(?=[^\]]*\]\()"
)


def cell(text: str) -> str:
    """Return `text` as one cell or sentence: what would be markup or end the cell is no longer it.

    Quotes and lone signs stay as they are, since people also read the file itself.
    """
    marked = MARK.sub(lambda found: f"\\{found[0]}", text)
    safe = TAG.sub("&lt;", ENTITY.sub("&amp;", marked))
    return safe.replace("|", "/").replace("\n", " ")


def code(text: str) -> str:
    """Return `text` as code within a line, where nothing but backticks means anything."""
    line = text.replace("\n", " ")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are figures."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def put_between(page: str, name: str, block: str) -> str:
    """Return `page` with `block` between its marks `<!-- name -->` and `<!-- /name -->`.

    Raises:
        UsageError: the page does not have both marks, once each and in this order.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, found, rest = page.partition(start)
    _, closed, tail = rest.partition(end)
    if not found or not closed or start in tail or end in head:
        raise UsageError(
            f"the page has no place for {name!r}",
            f"it needs one line {start.strip()} and one line {end}",
        )
    return f"{head}{start}{block.rstrip()}\n{end}{tail}"
