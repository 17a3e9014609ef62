"""docs/benchmarks.md, which programs write: each has a section of its own."""

from __future__ import annotations

from pathlib import Path

from edgeprune.store import write_text

BENCHMARKS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
HEAD = "# Benchmarks\n\nFigures with their conditions.\n"


def write_section(page: Path, name: str, text: str) -> None:
    """Put the section `name` into the page, in place of an older one."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = page.read_text(encoding="utf-8") if page.exists() else HEAD
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2].strip() if found else ""
    body = f"{before.rstrip()}\n\n{begin}\n{text.strip()}\n{end}\n"
    write_text(page, body + (f"\n{after}\n" if after else ""))
