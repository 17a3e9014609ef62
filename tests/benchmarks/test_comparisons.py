"""Comparisons that are kept and counted, and the interval of a share."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path

import pytest

from edgeprune.errors import UnstableError
from edgeprune.records import Comparison

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "comparisons.py"


@pytest.fixture(scope="module")
def comparisons():
    spec = importlib.util.spec_from_file_location("comparisons", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["comparisons"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["comparisons"]


def found(seed: int) -> Comparison:
    return Comparison(
        median=1.0, low=0.99, high=1.01, confidence=0.95, pairs=80, processes=8,
        first_cost=1.0, second_cost=1.0, minimum_ratio=1.0, stopped="enough",
    )  # fmt: skip


def test_a_later_call_goes_on_with_other_seeds(comparisons, tmp_path, monkeypatch):
    monkeypatch.setattr(comparisons, "_work", lambda besides: (0.0, 0.0))
    seeds = []
    run = lambda seed: seeds.append(seed) or found(seed)  # noqa: E731
    for count in (3, 5):
        kept = comparisons.Kept(tmp_path, "idle", 20.0, "here")
        kept.fill(count, run, math.inf, None)
    assert seeds == [0, 1, 2, 3, 4]
    assert len(kept.results) == 5
    assert comparisons.Kept(tmp_path, "idle", 20.0, "elsewhere").results == []
    assert comparisons.Kept(tmp_path, "busy", 20.0, "here").results == []


def test_what_others_disturbed_is_kept_and_does_not_count(
    comparisons, tmp_path, monkeypatch, capsys
):
    work = itertools.chain([0.0, 1e6], itertools.repeat(0.0))  # the first comparison alone
    monkeypatch.setattr(comparisons, "_work", lambda besides: (next(work), 0.0))
    kept = comparisons.Kept(tmp_path, "idle", 20.0, "here")
    kept.fill(2, found, math.inf, None)
    assert [result.counts for result in kept.results] == [False, True, True]
    kept.report("A/A", 2, 1.0)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("A/A, 2 wanted: 2 taken, 0 call a difference")
    assert second.startswith("A/A, not counted since others used 10 % of a processor or more: 1 ")


def test_an_unstable_comparison_is_one_of_those_taken(comparisons, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparisons, "_work", lambda besides: (0.0, 0.0))

    def run(seed: int) -> Comparison:
        if seed:
            return found(seed)
        raise UnstableError("not settled", "again")

    kept = comparisons.Kept(tmp_path, "idle", 20.0, "here")
    kept.fill(2, run, math.inf, None)
    kept.report("A/A", 2, 1.0)
    assert "2 taken, 0 call a difference" in (printed := capsys.readouterr().out)
    assert "1 unstable" in printed


# R: binom.test(5, 100), binom.test(0, 10), binom.test(10, 10)
@pytest.mark.parametrize(
    ("called", "count", "low", "high"),
    [(5, 100, 0.01643, 0.11284), (0, 10, 0.0, 0.30850), (10, 10, 0.69150, 1.0)],
)
def test_interval_of_a_share(comparisons, called, count, low, high):
    assert comparisons.exact_interval(called, count) == pytest.approx((low, high), abs=1e-5)
