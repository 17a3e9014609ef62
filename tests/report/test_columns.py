"""Tables at 80 and at 120 columns: no figure is broken, and names stay different."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeprune.pruning.groups import find_groups
from edgeprune.records import Explanation, GroupReason, SensitivityCurve, SkippedGroup
from edgeprune.report import columns, plan_summary
from edgeprune.report.bench_screen import show as show_bench
from edgeprune.report.console import Console
from tests import factories
from tests.report.test_bench_summary import ROWS, result

LONG = [f"features.denseblock{k}.denselayer1{k}.conv{k}" for k in (1, 2, 3)]


@pytest.fixture
def screen(capsys, monkeypatch):
    """Return what `show(console)` prints on a screen of so many columns, in lines."""

    def shown(width, show):
        monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        show(Console())
        lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
        return [line for line in lines if line]

    return shown


def cells(line):
    return [cell for cell in re.split(r" {2,}", line.strip()) if cell]


def a_plan(unit="us", names=LONG, criterion="output_error"):
    plan = factories.a_plan(unit=unit)
    groups = dict(zip(names, plan.groups.values(), strict=False))
    groups = {n: g.model_copy(update={"criterion": criterion}) for n, g in groups.items()}
    reasons = tuple(
        GroupReason(group=n, before=g.before, after=g.after, saves=123456.0, loses=0.0123)
        for n, g in groups.items()
    )
    why = Explanation(groups=reasons, steps=())
    return plan.model_copy(update={"groups": groups, "explanation": why})


@pytest.mark.parametrize("unit", ["us", "instructions"])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_plan_has_a_line_a_group_with_all_that_decides(screen, width, unit) -> None:
    plan = a_plan(unit)
    widths = {name: tuple(range(8, 129, 8)) for name in LONG}
    table = factories.a_table(widths=widths)
    lines = screen(width, lambda console: console.plan(plan, table))
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if line.startswith(" group"))
    rows = lines[lines.index(head) + 2 :][: len(LONG)]
    assert len({cells(row)[0] for row in rows}) == len(LONG)
    for name, row in zip(LONG, rows, strict=True):
        start, _, end = cells(row)[0].partition("…")
        assert name.startswith(start)
        assert name.endswith(end)
        saved = "123 ms" if unit == "us" else "123 k instructions"
        assert {str(plan.groups[name].after), saved, "0.0123", "output_error"} <= set(cells(row))
    left_out = [line for line in lines if line.startswith("too wide for here")]
    assert bool(left_out) == (width < 120)
    if width == 120 and unit == "us":
        assert [cells(row)[0] for row in rows] == LONG
        assert all(row.endswith("8 to 128 by 8") for row in rows)


class Stubborn(nn.Module):
    """One layer that cannot be cut, whatever the exception says at length, and three that can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        self.third, self.odd, self.head = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.odd(self.third(self.second(self.first(x)).relu()).relu())
        if x.shape[-1] != 5:
            raise ValueError("five are needed " * 20)
        return self.head(x)


@pytest.mark.parametrize("width", [80, 400])
def test_a_plan_ends_with_the_groups_that_are_never_cut(screen, width) -> None:
    found = find_groups(Stubborn().eval(), (torch.randn(2, 4),), ("second", "third"))
    table = factories.a_table(
        skipped=(SkippedGroup(name="mix", width=8, reason="no price " + "so " * 60),)
    )
    plan = factories.a_plan(rounds=())
    alone = (*found.skipped, *table.skipped)
    lines = screen(width, lambda console: console.plan(plan, table, alone))
    start = next(k for k, line in enumerate(lines) if line.startswith("left alone"))
    text = re.sub(r"\s+", " ", " ".join(lines[start:]))
    assert text.startswith("left alone second: ")
    assert "third: " in text
    assert re.search(r"odd: cutting it fails: ValueError: (five are needed )+.*?\.\.\. ", text)
    assert "no price " + " ".join(["so"] * 60) in text  # what edgeprune says itself stays whole
    assert text.endswith(" head: the model's output")
    if width == 400:
        assert len(lines[start:]) == 5  # a line a reason
        (odd,) = [line.strip() for line in lines if " odd: " in line]
        assert len(odd) <= len("odd: ") + 150
    assert "five are needed " * 15 in {g.name: g.reason for g in found.skipped}["odd"]


def test_of_many_groups_with_one_reason_the_first_few_are_named(screen) -> None:
    alone = [SkippedGroup(name=f"v{k}", width=8, reason="it is one") for k in range(9)]
    nothing = factories.a_table(widths={})
    for table in (factories.a_table(), nothing):
        lines = screen(120, lambda c, t=table: c.plan(factories.a_plan(rounds=()), t, alone))
        assert re.sub(r" +", " ", lines[-1]).strip() == (
            "left alone v0, v1, v2, v3, v4, v5 and 3 more: it is one"
        )
    assert not any(
        "left alone" in x for x in screen(80, lambda c: c.plan(factories.a_plan(), nothing))
    )


@pytest.mark.parametrize("width", [80, 120])
def test_points_of_a_curve_are_never_broken(screen, width) -> None:
    curves = [
        SensitivityCurve(
            group=name,
            criterion=criterion,
            widths=tuple(range(8, 129, 8)),
            increases=tuple((16 - k) * 0.0123 for k in range(1, 17)),
            drops=tuple((16 - k) * 0.00123 for k in range(1, 17)),
        )
        for name in LONG
        for criterion in ("taylor", "output_error")
    ]
    chosen = {curve.group: curve for curve in curves if curve.criterion == "output_error"}
    ranked = dict.fromkeys(LONG, "refit_error")
    lines = screen(width, lambda c: c.sensitivity(curves, chosen, "top-1 accuracy", ranked))
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert len(re.findall(r"\d+: \+[\d.]+ \(\+[\d.]+\)", text)) == 6 * len(LONG)
    names = [cells(line)[0] for line in lines if " output_error " in line and ": +" in line]
    assert len(set(names)) == len(LONG)
    flat = re.sub(r"\s+", " ", text)
    assert "best curve by of taylor, output_error: least loss where the group alone" in flat
    assert "a plan ranks channels by refit_error instead, in 3 of 3 groups: recovery" in flat


def test_where_a_plan_ranks_by_the_best_curves_nothing_is_said(screen) -> None:
    (curve, *_) = factories.curves()
    chosen = {curve.group: curve}
    ranked = {curve.group: curve.criterion}
    lines = screen(80, lambda c: c.sensitivity([curve], chosen, "accuracy", ranked))
    assert not any(line.startswith("a plan") for line in lines)


def test_sums_of_scores_are_not_called_losses_of_a_cut(screen) -> None:
    (curve, *_) = factories.curves()
    chosen = {curve.group: curve}
    lines = screen(120, lambda c: c.sensitivity([curve], chosen, "accuracy", {}, measured=False))
    assert "summed scores" in lines[-1]
    assert not any("BatchNorm" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, plan_summary.RANKED),
        ({"losses": "scores"}, plan_summary.RANKED_BY_SCORES),
        ({"allocation": "uniform"}, plan_summary.RANKED_BY_PEERS),
    ],
)
def test_a_plan_says_what_its_rankings_are(changes, said) -> None:
    assert plan_summary.ranked_by(factories.a_plan(**changes)) == said


@pytest.mark.parametrize(("width", "whole"), [(80, False), (120, True)])
def test_a_comparison_of_methods_keeps_its_figures_whole(screen, width, whole) -> None:
    lines = screen(width, lambda console: show_bench(console, result(*ROWS)))
    rows = [line for line in lines if line.startswith(" 50.0 %")]
    assert [cells(row)[1] for row in rows] == ["exact", "scratch", "retention"]
    assert "90.0 % (over)" in cells(rows[2])
    assert "0.9100 ± 0.0141" in cells(rows[0])
    assert any("seconds a row; --json" in line for line in lines) is not whole


@given(st.lists(st.text("ab.c", min_size=1, max_size=40), unique=True, max_size=6))
def test_shortened_names_stay_different(names) -> None:
    short = columns.distinct(names, 16)
    assert len(set(short)) == len(names)
    assert short == names or max(map(len, short)) <= 16


def test_names_that_differ_in_the_middle_show_where() -> None:
    names = [f"{'x' * 30}.{k}.{'y' * 30}" for k in range(3)]
    short = columns.distinct(names, 20)
    assert max(map(len, short)) <= 20
    assert all(str(k) in name for k, name in enumerate(short))
