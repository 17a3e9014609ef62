"""A comparison summed up: means, spread, what is over the budget."""

from __future__ import annotations

import pytest

from edgeprune.records import BenchDense, BenchResult, BenchRow
from edgeprune.report.bench_page import render
from edgeprune.report.bench_screen import show
from edgeprune.report.bench_summary import (
    accuracy_text,
    condition,
    cost_text,
    entries,
    markdown,
)
from edgeprune.report.console import Console


def row(method: str, accuracy: float, *, seed: int = 0, cost: float = 0.49) -> BenchRow:
    return BenchRow(
        method=method, target=0.5, seed=seed, steps=10, cost_ratio=cost, macs_ratio=0.4,
        accuracy_before_recovery=None if method == "scratch" else accuracy - 0.1,
        accuracy=accuracy, seconds=1.0,
    )  # fmt: skip


def result(*rows: BenchRow, steps: int = 10) -> BenchResult:
    return BenchResult(
        job="net", device="mobile_cpu", kind="measured", unit="us", target=0.5, targets=(0.5,),
        seeds=(0, 1), steps=steps, rows=rows, dense=BenchDense(accuracy=0.95),
        metric="top-1 accuracy", accuracy_on="test", samples=10_000,
    )  # fmt: skip


ROWS = (
    row("exact", 0.90),
    row("exact", 0.92, seed=1),
    row("retention", 0.94, cost=0.9),
    row("scratch", 0.80),
)


def test_means_spread_and_order() -> None:
    found = entries(result(*ROWS), 0.5)
    assert [e.method for e in found] == ["exact", "scratch", "retention"]  # over the budget: last
    best = found[0]
    assert (best.seeds, best.accuracy, best.before) == (2, pytest.approx(0.91), pytest.approx(0.81))
    assert best.spread == pytest.approx(0.02 / 2**0.5)
    assert accuracy_text(best) == "0.9100 ± 0.0141"
    assert accuracy_text(found[1]) == "0.8000 (one seed)"
    assert (found[1].before, found[2].over) == (None, True)
    assert entries(result(*ROWS), 0.35) == ()


def test_the_conditions_are_said() -> None:
    said = condition(result(*ROWS))
    assert "10,000 test samples" in said
    assert "after 10 steps of recovery, 2 seeds" in said
    assert "2 seeds, mean ± standard deviation; costs are measured on mobile_cpu" in said
    one = condition(result(*ROWS).model_copy(update={"seeds": (4,)}))
    assert "after 10 steps of recovery, one seed; costs" in one
    assert "after BatchNorm recalibration alone" in condition(result(*ROWS, steps=0))


def test_seeds_that_changed_nothing_are_told() -> None:
    told = "the seeds changed no accuracy of a cut model"
    same = [row("exact", 0.9), row("exact", 0.9, seed=1)]
    fresh = [row("scratch", 0.7), row("scratch", 0.8, seed=1)]
    assert told in condition(result(*same, *fresh))
    assert told not in condition(result(*ROWS))
    other = [row("uniform", 0.9), row("uniform", 0.91, seed=1)]
    assert told not in condition(result(*same, *other))
    assert told not in condition(result(*fresh))
    assert told not in condition(result(same[0]))


def test_training_from_scratch_is_told_with_all_its_steps() -> None:
    rows = [r.model_copy(update={"dense_steps": 255 * (r.method == "scratch")}) for r in ROWS]
    assert "; scratch trained for 265 steps from fresh weights; " in condition(result(*rows))
    assert "After 10 steps" not in render(result(*rows))


def test_rows_of_unequal_cost_are_marked_and_told() -> None:
    rows = (row("exact", 0.90), row("uniform", 0.93, cost=0.484), row("retention", 0.9, cost=0.51))
    found = {e.method: cost_text(e) for e in entries(result(*rows), 0.5)}
    assert found == {"exact": "49.0 %", "uniform": "48.4 % (under)", "retention": "51.0 % (over)"}
    said = condition(result(*rows))
    assert "; over: costs more than was asked for; under: costs less than 97 % of what" in said
    page = render(result(*rows)).replace("\N{NO-BREAK SPACE}", " ")
    assert "48.4 % (under)" in page
    assert "equal cost" not in page
    assert "over:" not in condition(result(row("exact", 0.90)))


def test_results_from_before_the_steps_from_scratch_were_kept_are_read() -> None:
    document = result(*ROWS).model_dump(mode="json", by_alias=True)
    for one in document["rows"]:
        del one["dense_steps"]
    assert BenchResult.model_validate(document) == result(*ROWS)


@pytest.mark.parametrize("quiet", [False, True])
def test_the_screen_says_the_conditions_of_its_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # wide enough for one line each
    show(Console(quiet=quiet), result(*ROWS))
    said = capsys.readouterr().err
    assert "0.9100 ± 0.0141" in said
    assert condition(result(*ROWS)) in said


def test_tables_as_markdown() -> None:
    text = markdown(result(*ROWS))
    assert "| `exact` | 49.0 % | 40.0 % | 0.8100 | 0.9100 ± 0.0141 | 2 |" in text
    assert "| `retention` | 90.0 % (over) |" in text
    assert "| `exact` | 49.0 % | 40.0 % | 0.8100 |\n" in markdown(result(*ROWS, steps=0))


def test_the_page_is_whole_and_names_everything() -> None:
    page = render(result(*ROWS))
    assert page.count("<svg") == 2
    assert "exact: 0.9100 at 49.0" in page
    assert "http" not in page.replace("http-equiv", "")
    assert render(result(*ROWS, steps=0)).count("<svg") == 1
    assert "nothing to show" in render(result(row("scratch", 0.8)))
