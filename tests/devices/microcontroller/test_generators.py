"""The comparison of benchmarks/microcontroller.py, on the network that takes it the least time."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytestmark = [pytest.mark.microcontroller, pytest.mark.slow]
BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("microcontroller")


def test_our_code_needs_the_fewest_instructions_for_equal_outputs(program, tmp_path: Path) -> None:
    model = program.network("autoencoder", tmp_path, 3)
    column = program.Column("cortex_m4", program._chip("cortex_m4", "zig"))
    keep = tmp_path / "keep"
    rows = list(program.measure(model, [column], tmp_path / "code", keep))
    assert [row.generator for row in rows] == list(program.GENERATORS)
    assert [row.failure for row in rows if row.failure] == []
    ours, _, *others = rows
    assert ours.largest_difference == 0
    assert ours.arena_bytes == ours.liveness_bytes
    assert ours.ram_bytes == ours.arena_bytes + 16 + ours.stack_bytes  # no scratch, one canary
    for other in others:
        assert other.largest_difference <= 4  # bakenn rounds half away from zero
        assert other.instructions > 3 * ours.instructions, other.generator
        assert other.ram_bytes > ours.ram_bytes
    assert not program.beaten(ours, rows)
    again = list(program.measure(model, [column], tmp_path / "again", keep))
    assert [row.instructions for row in again] == [row.instructions for row in rows]
    assert len(list(keep.iterdir())) == len(rows)


def test_the_section_holds_every_figure_and_what_is_missing(program) -> None:
    row = program.Row(
        "net", "M4", "edgeprune", instructions=1234567, flash_bytes=10, static_bytes=200,
        stack_bytes=40, arena_bytes=100, scratch_bytes=50, liveness_bytes=100,
    )  # fmt: skip
    missing = program.Row("net", "M4", "bakenn", failure="no operator Mul")
    text = program.section([row, missing], program.Conditions({"M4": "zig -O3"}, {"x": "1"}, 5))
    assert "| edgeprune | 1,234,567 | 10 | 240 | 0 |" in text
    assert "| bakenn | none (1) |" in text
    assert "1. no operator Mul" in text
    assert "| net, M4 | 100 | 100 | 50 | 50 | 40 | 240 |" in text
    assert "- M4: `zig -O3`" in text
