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
    trained="one",
)
PLAN = {"a": PlannedGroup(before=4, after=2, kept=(0, 1), criterion="l2")}


def test_rows_of_bytes_that_are_no_text_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Rows(path).add(ROW)
    path.write_bytes(b"\xff\xfe\n" + path.read_bytes() + b"\xff\xfe")
    assert Rows(path).get("exact", 0.5, 0, "one") == ROW


def test_rows_that_cannot_be_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Rows(path).add(ROW)
    path.write_text(path.read_text().replace('"cost_ratio": 0.5', '"cost_ratio": -3.0'))
    assert Rows(path).get("exact", 0.5, 0, "one") is None


def test_rows_fit_what_was_trained_for_them_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Rows(path).add(ROW)
    rows = Rows(path)
    assert rows.get("exact", 0.5, 0, "other") is None
    assert rows.of_another("exact", 0.5, 0, 10, "other")
    assert not rows.of_another("exact", 0.5, 0, 10, "one")
    assert not rows.of_another("exact", 0.5, 1, 10, "other")
    assert rows.trained("one", 0) == ROW
    assert rows.trained("one", 1) is None


def test_rows_of_earlier_versions_are_read_and_fit_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW.model_dump(mode="json", exclude={"trained"})) + "\n")
    rows = Rows(path)
    assert rows.of_another("exact", 0.5, 0, 10, "one")
    assert rows.get("exact", 0.5, 0, "one") is None
    assert rows.trained("one", 0) is None


def test_costs_against_another_dense_model_do_not_count(tmp_path: Path) -> None:
    path, found = tmp_path / "measured.jsonl", iter((1.0, 2.0))

    def measure(plan: dict[str, PlannedGroup]) -> Measured:
        cost = next(found)
        return Measured(cost, cost, cost)

    for base, cost in (("a", 1.0), ("b", 2.0), ("a", 1.0), ("b", 2.0)):
        assert remembered(path, measure, base)(PLAN).cost == cost


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
def test_costs_that_cannot_be_are_measured_again(tmp_path: Path, cost: float) -> None:
    path, asked = tmp_path / "measured.jsonl", list[int]()

    def measure(plan: dict[str, PlannedGroup]) -> Measured:
        asked.append(1)
        return Measured(2.0, 1.9, 2.1)

    for _ in range(2):
        assert remembered(path, measure, "dense")(PLAN) == Measured(2.0, 1.9, 2.1)
    assert len(asked) == 1
    line = json.loads(path.read_text())
    path.write_text(json.dumps(line | {"cost": cost}) + "\n")
    assert remembered(path, measure, "dense")(PLAN) == Measured(2.0, 1.9, 2.1)
    assert len(asked) == 2


def test_lines_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + "[" * 200_000 + '\n{"b": 2}\n{"c":')
    assert list(Lines(path).read()) == [{"a": 1}, {"b": 2}]
