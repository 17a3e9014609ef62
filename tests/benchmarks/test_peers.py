"""What benchmarks/peers.py writes into the page."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from edgeprune.records import BenchDense, BenchResult, BenchRow

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def program():
    sys.path.insert(0, str(PATH.parent))
    try:
        return runpy.run_path(str(PATH), run_name="peers")
    finally:
        sys.path.remove(str(PATH.parent))


def result(steps: int, *rows: tuple[str, float, int, float, float]) -> BenchResult:
    """Rows are (method, cost, seed, accuracy before, accuracy after), all at 50 %."""
    return BenchResult(
        job="net", device="mobile_cpu", kind="measured", unit="us", target=0.5, targets=(0.5,),
        seeds=(0, 1), steps=steps, dense=BenchDense(accuracy=0.95), metric="top-1 accuracy",
        accuracy_on="test", samples=100,
        rows=tuple(
            BenchRow(
                method=method, target=0.5, seed=seed, steps=steps, cost_ratio=cost, macs_ratio=0.4,
                accuracy_before_recovery=before, accuracy=after, seconds=1.0,
            )
            for method, cost, seed, before, after in rows
        ),
    )  # fmt: skip


def test_long_trainings_stand_beside_the_others(program, tmp_path) -> None:
    short = result(200, ("exact", 0.49, 0, 0.6, 0.92), ("exact", 0.49, 1, 0.6, 0.94))
    long = result(200, ("scratch", 0.49, 0, 0.0, 0.925))
    (tmp_path / "after.json").write_text(short.model_dump_json(by_alias=True))
    (tmp_path / "after-long.json").write_text(long.model_dump_json(by_alias=True))
    found = program["together"](tmp_path, "after")
    assert [row.method for row in found.rows] == ["exact", "exact", "scratch"]
    assert program["together"](tmp_path, "before") is None
    text = program["section"]([found])
    assert "| `scratch` | 49.0 % | 40.0 % | 0.0000 | 0.9250 (one seed) | 1 |" in text
    assert "`scratch` 0.9250 is not above `exact`" in text
    assert "Not compared yet: `uniform/taylor`" in text
    assert "`halp/refit_error`" in text


@pytest.mark.parametrize(
    ("other", "word"), [(0.92, "is above"), (0.93, "is the same as"), (0.94, "is **not** above")]
)
def test_peers_are_compared_apart_by_their_criterion(program, other: float, word: str) -> None:
    rows = [
        ("exact", 0.49, 0, 0.6, 0.93), ("halp/l2", 0.49, 0, 0.6, other),
        ("halp/refit_error", 0.49, 0, 0.6, 0.91), ("retention", 0.7, 0, 0.6, 0.99),
    ]  # fmt: skip
    text = program["section"]([result(200, *rows)])
    assert f"`exact` 0.9300 {word} the best peer, `halp/l2` {other:.4f}" in text
    assert "is above the best peer that is given its criterion" in text
    sentences = [line for line in text.splitlines() if line.startswith("- ")]
    assert not any("retention" in sentence for sentence in sentences)  # it is over the budget


@pytest.mark.parametrize(("lost", "word"), [(0.90, "met"), (0.80, "**missed**")])
def test_half_of_what_torch_pruning_loses(program, lost: float, word: str) -> None:
    rows = [("exact", 0.49, 0, lost, lost), ("uniform/l2@8", 0.49, 0, 0.75, 0.75)]
    text = program["section"]([result(0, *rows), result(200, *rows)])
    assert f"(`uniform/l2@8`) 20.00: the goal, at most half of that, is {word}." in text
    assert "narrower" not in text.split("### ")[1]  # nothing is trained there
    assert "Not compared yet" in text.split("### ")[2]


@pytest.mark.parametrize(
    ("target", "said"), [(0.35 * 117.3 / 117.3, True), (0.5 - 1e-12, True), (0.25, False)]
)
def test_the_goal_is_known_however_the_target_was_rounded(
    program, target: float, said: bool
) -> None:
    rows = [("exact", 0.2, 0, 0.9, 0.9), ("uniform/l2@8", 0.2, 0, 0.75, 0.75)]
    found = result(0, *rows)
    moved = tuple(row.model_copy(update={"target": target}) for row in found.rows)
    found = found.model_copy(update={"target": target, "targets": (target,), "rows": moved})
    (sentence,) = program["verdicts"](found)
    assert ("the goal, at most half of that, is met." in sentence) is said


def test_methods_are_those_of_the_page(program) -> None:
    methods = program["METHODS"]
    assert len(set(methods)) == len(methods)
    assert {"exact", "narrower", "scratch", "uniform/l2", "halp/refit_error"} <= {*methods}
    assert not any("fpgm" in method for method in methods)
