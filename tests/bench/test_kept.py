"""Results of a comparison that are kept line by line: what is damaged does not count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.allocation.closed_loop import Measured
from edgeprune.bench.kept import Lines, Rows, remembered
from edgeprune.records import BenchRow, PlannedGroup

ROW = BenchRow(
    method="exact",
    target=0.5,
    seed=0,
    steps=10,
    cost_ratio=0.5,
    macs_ratio=0.4,
    accuracy_before_recovery=0.3,
    accuracy=0.9,
    seconds=1.0,
)
PLAN = {"a": PlannedGroup(before=4, after=2, kept=(0, 1), criterion="l2")}


def test_rows_of_bytes_that_are_no_text_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Rows(path).add(ROW)
    path.write_bytes(b"\xff\xfe\n" + path.read_bytes() + b"\xff\xfe")
    assert Rows(path).get("exact", 0.5, 0, 10) == ROW


def test_rows_that_cannot_be_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Rows(path).add(ROW)
    path.write_text(path.read_text().replace('"cost_ratio": 0.5', '"cost_ratio": -3.0'))
    assert Rows(path).get("exact", 0.5, 0, 10) is None


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
def test_costs_that_cannot_be_are_measured_again(tmp_path: Path, cost: float) -> None:
    path, asked = tmp_path / "measured.jsonl", list[int]()

    def measure(plan: dict[str, PlannedGroup]) -> Measured:
        asked.append(1)
        return Measured(2.0, 1.9, 2.1)

    for _ in range(2):
        assert remembered(path, measure)(PLAN) == Measured(2.0, 1.9, 2.1)
    assert len(asked) == 1
    line = json.loads(path.read_text())
    path.write_text(json.dumps(line | {"cost": cost}) + "\n")
    assert remembered(path, measure)(PLAN) == Measured(2.0, 1.9, 2.1)
    assert len(asked) == 2


def test_lines_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + "[" * 200_000 + '\n{"b": 2}\n{"c":')
    assert list(Lines(path).read()) == [{"a": 1}, {"b": 2}]
