"""edgeprune bench --resume: a row shows what its own plan reached, never another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_rows_of_other_plans_are_told_and_done_again(job, inside, tmp_path) -> None:
    out = tmp_path / "out"
    words = ["bench", job, "--device", job.with_name("exact.toml"), "--out", out, "--json"]
    words += ["--methods", "uniform/l2,retention", "--budget", "60%", "--seeds", "0"]
    words += ["--steps", "2", "--resume"]
    first = inside(*words)
    assert first.returncode == 0, first.stderr
    kept, plan = out / ".run" / "rows.jsonl", out / ".run" / "plan-60%-uniform_l2.json"
    uniform, retention = rows_of(kept)
    assert len({uniform["trained"], retention["trained"]}) == 2

    # a row that some other plan left under the same method, target, seed and steps
    kept.write_text(json.dumps(uniform | {"trained": "0" * 64, "accuracy": 0.125}) + "\n")
    again = inside(*words)
    assert again.returncode == 0, again.stderr
    assert (
        "finished rows are not used, since they are of other plans or an earlier version: "
        "uniform/l2 at 60% with seed 0" in " ".join(again.stderr.split())
    )
    found = json.loads(again.stdout)["rows"]
    assert [row["accuracy"] for row in found] == [uniform["accuracy"], retention["accuracy"]]
    assert rows_of(kept)[0]["accuracy"] == 0.125  # nothing is thrown away

    # rows of an earlier version, without a digest
    old = [{k: v for k, v in row.items() if k != "trained"} for row in (uniform, retention)]
    kept.write_text("".join(json.dumps(row | {"accuracy": 0.125}) + "\n" for row in old))
    again = inside(*words)
    assert "uniform/l2 at 60% with seed 0 and 1 more" in " ".join(again.stderr.split())
    found = json.loads(again.stdout)["rows"]
    assert [row["accuracy"] for row in found] == [uniform["accuracy"], retention["accuracy"]]

    # a plan that is gone is made again, and its row fits since the plan is the same
    plan.unlink()
    before = kept.read_text()
    again = inside(*words)
    assert "not used" not in again.stderr
    assert (json.loads(again.stdout)["rows"], kept.read_text()) == (found, before)

    # costs that were taken anew do not train again, and are those that are shown
    kept.write_text(json.dumps(uniform | {"cost_ratio": 0.4999}) + "\n")
    again = inside(*words)
    assert "uniform/l2 at 60%, seed 0" not in again.stderr
    assert json.loads(again.stdout)["rows"][0] == uniform


@pytest.mark.slow
def test_another_factory_of_smaller_networks_is_trained_anew(
    job, inside, edgeprune, tmp_path
) -> None:
    narrow = job.with_name("small.py")  # a module that nothing else imports
    narrow.write_text(SMALL)
    job.write_text(job.read_text() + '[bench]\nnarrower = "small:build"\n')
    out = tmp_path / "out"
    words = ["bench", job, "--device", job.with_name("exact.toml"), "--out", out, "--json"]
    words += ["--methods", "narrower", "--budget", "60%", "--seeds", "0", "--steps", "2"]
    first = inside(*words)
    assert first.returncode == 0, first.stderr
    same = inside(*words, "--resume")
    assert json.loads(same.stdout)["rows"] == json.loads(first.stdout)["rows"]
    assert "narrower at 60%" not in same.stderr
    narrow.write_text(SMALL.replace("16", "24"))
    other = edgeprune(*words, "--resume")  # in this process the module is imported already
    assert other.returncode == 0, other.stderr
    assert "finished rows are not used" in other.stderr
    (before,), (after,) = (json.loads(done.stdout)["rows"] for done in (first, other))
    assert before["trained"] != after["trained"]
    assert "narrower at 60%: done" in other.stderr
    job.write_text(job.read_text().replace("small:build", "small:biuld"))
    wrong = inside(*words)
    assert wrong.returncode == 2
    assert "has no function 'biuld'" in wrong.stderr
    assert "Pricing" not in wrong.stderr


SMALL = """
from torch import nn


def build(width):
    n = max(1, round(16 * width))
    return nn.Sequential(
        nn.Conv2d(1, n, 3, padding=1), nn.ReLU(), nn.Conv2d(n, n, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 4),
    )
"""
