"""Limits of a job that take no part in a comparison at equal cost."""

from __future__ import annotations

import json

import pytest

METHODS = ["--methods", "exact,uniform/l2", "--steps", "0", "--seeds", "0", "--json"]


@pytest.mark.slow
def test_no_method_is_held_to_other_limits_than_the_cost(job, inside, tmp_path) -> None:
    words = ["bench", job, "--device", job.with_name("exact.toml"), *METHODS]
    free = inside(*words, "--out", tmp_path / "free")
    assert free.returncode == 0, free.stderr
    assert "not heeded" not in free.stderr
    job.write_text(job.read_text().replace('"60%"', '"60%"\nmacs = "25%"'))
    done = inside(*words, "--out", tmp_path / "limited")
    assert done.returncode == 0, done.stderr
    assert "warning: [budget] macs of the job: not heeded" in done.stderr
    rows, free_rows = (json.loads(one.stdout)["rows"] for one in (done, free))
    shares = [(row["method"], row["cost_ratio"], row["macs_ratio"]) for row in rows]
    assert shares == [(row["method"], row["cost_ratio"], row["macs_ratio"]) for row in free_rows]
    assert all(row["macs_ratio"] > 0.25 for row in rows)


def test_other_limits_alone_give_nothing_to_compare_at(job, inside, tmp_path) -> None:
    job.write_text(job.read_text().replace('latency = "60%"', 'macs = "40%"'))
    words = ["bench", job, "--device", job.with_name("exact.toml"), "--out", tmp_path / "out"]
    done = inside(*words, *METHODS)
    assert done.returncode == 2
    assert "limits none: it asks for macs 40%" in done.stderr
    assert not (tmp_path / "out").exists()
