"""Which seeds edgeprune bench takes, and which budgets it takes for the same."""

from __future__ import annotations

import json

import pytest

from edgeprune.bench.comparing import Comparison
from edgeprune.commands.benching import following
from edgeprune.errors import UsageError
from edgeprune.seeds import SEEDS


@pytest.mark.parametrize(
    ("of_job", "words", "seeds"),
    [
        ("", [], (0, 1, 2)),
        ("seed = 7\n", [], (7, 8, 9)),
        ("seed = 7\n", ["--seed", "5"], (5, 6, 7)),
        ("seed = 7\n", ["--seeds", "3,1"], (3, 1)),
    ],
)
def test_seeds_begin_at_that_of_the_command_or_the_job(
    job, inside, monkeypatch, of_job: str, words: list[str], seeds: tuple[int, ...]
) -> None:
    asked = []

    def run(comparison: Comparison, *, resume: bool) -> None:
        asked.append(comparison.seeds)
        raise UsageError("far enough")

    monkeypatch.setattr(Comparison, "run", run)
    lines = [line for line in job.read_text().splitlines() if not line.startswith("seed")]
    job.write_text(of_job + "\n".join(lines) + "\n")
    done = inside("bench", job, "--device", job.with_name("exact.toml"), *words)
    assert "far enough" in done.stderr
    assert asked == [seeds]


def test_behind_the_last_seed_comes_the_first() -> None:
    assert following(SEEDS - 2) == (SEEDS - 2, SEEDS - 1, 0)


@pytest.mark.parametrize("seeds", ["7" * 5000, f"0,{SEEDS}", "²", "-1", ""])
def test_what_is_no_seed_is_refused(job, inside, seeds: str) -> None:
    done = inside("bench", job, "--device", job.with_name("exact.toml"), "--seeds", seeds)
    assert done.returncode == 2
    assert f"seeds are whole numbers below {SEEDS}, with commas" in done.stderr


def test_seed_and_seeds_together_are_refused(job, inside) -> None:
    words = ["--device", job.with_name("exact.toml"), "--seed", "5", "--seeds", "0,1"]
    done = inside("bench", job, *words)
    assert done.returncode == 2
    assert "--seed and --seeds are given together" in done.stderr
    assert "--seed 5 alone begins at 5" in done.stderr


@pytest.mark.slow
def test_without_training_one_seed_is_run_and_named(job, inside, tmp_path) -> None:
    words = ["--device", job.with_name("exact.toml"), "--out", tmp_path / "out", "--json"]
    done = inside("bench", job, *words, "--seed", "5", "--methods", "uniform/l2", "--steps", "0")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["seeds"] == [5] == [row["seed"] for row in document["rows"]]
    kept = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert kept["seeds"] == [5]


@pytest.mark.parametrize(
    ("budgets", "same"),
    [
        ("50%,2x", "50% and 2x"),
        ("40%,1ms,1000us", "1ms and 1000us"),
        ("4x,50%,25.0%", "4x and 25.0%"),
    ],
)
def test_one_budget_in_two_words_is_refused(job, inside, budgets: str, same: str) -> None:
    for command in ("bench", "plan"):
        done = inside(command, job, "--device", job.with_name("exact.toml"), "--budget", budgets)
        assert done.returncode == 2
        assert f"a budget is named twice: {same} are the same" in done.stderr


@pytest.mark.slow
def test_a_figure_that_is_a_share_of_dense_is_refused(job, inside, tmp_path) -> None:
    words = ["--device", job.with_name("exact.toml"), "--json"]
    profile = inside("profile", job, *words)
    half = json.loads(profile.stdout)["total"] / 2
    out = ["--out", tmp_path / "out", "--methods", "uniform/l2", "--steps", "0"]
    done = inside("bench", job, *words, *out, "--budget", f"50%,{half:.9f}us")
    assert done.returncode == 2, done.stderr
    assert "us are the same on this device: 50.00 % of the dense cost" in done.stderr
    assert not (tmp_path / "out" / "bench.json").exists()
    family = inside("plan", job, *words, "--budget", f"50%,{half:.9f}us")
    assert family.returncode == 2
    assert "two of them are the same" in family.stderr


@pytest.mark.slow
def test_a_budget_that_cuts_nothing_is_told(job, inside, tmp_path) -> None:
    words = ["--device", job.with_name("exact.toml"), "--out", tmp_path / "out"]
    words += ["--methods", "uniform/l2", "--steps", "0"]
    done = inside("bench", job, *words, "--budget", "60%,400us")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "budget 400us is 133.6 % of the dense cost: nothing has to be cut for it" in told
    assert "budget 60% is" not in told
