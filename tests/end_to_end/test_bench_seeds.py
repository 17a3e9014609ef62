"""Which seeds edgeprune bench takes."""

from __future__ import annotations

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


def test_seed_and_seeds_together_are_refused(job, inside) -> None:
    words = ["--device", job.with_name("exact.toml"), "--seed", "5", "--seeds", "0,1"]
    done = inside("bench", job, *words)
    assert done.returncode == 2
    assert "--seed and --seeds are given together" in done.stderr
    assert "--seed 5 alone begins at 5" in done.stderr
