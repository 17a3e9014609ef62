from __future__ import annotations

from edgeprune.faults import line_of


def test_line_of_knows_sections_dotted_keys_and_inline_tables() -> None:
    text = '[a]\nx = 1\n[ "b" . c ]\ny = 2\n[d]\ne.f = 3\ng = { h = 1 }\n'
    assert line_of(text, ["a", "x"]) == 2
    assert line_of(text, ["a"]) == 1
    assert line_of(text, ["b", "c", "y"]) == 4
    assert line_of(text, ["d", "e", "f"]) == 6
    assert line_of(text, ["d", "g", "h"]) == 7
    assert line_of(text, ["x"]) is None
    assert line_of(text, ["d", "x"]) is None
