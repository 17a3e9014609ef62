from __future__ import annotations

from pathlib import Path

from edgeprune.bench.kept import Lines


def test_lines_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + "[" * 200_000 + '\n{"b": 2}\n{"c":')
    assert list(Lines(path).read()) == [{"a": 1}, {"b": 2}]
