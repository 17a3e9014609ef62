"""Scores computed where the data is, and a run elsewhere that merges them; the look at curves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from edgeprune.errors import BudgetError
from edgeprune.importance.shared import read_scores
from edgeprune.stages import allocating, pricing

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

HOLDERS = """

def part(first, last):
    def load_part(seed=0):
        whole = load(seed)
        batches = whole.calibration[first:last]
        return edgeprune.Data(whole.example_inputs, None, batches, whole.validation)
    return load_part


first, second = part(0, 1), part(1, 3)
"""


@pytest.mark.slow
def test_merged_scores_give_the_plan_of_pooled_data(job: Path, inside, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = job.with_name("data.py")
    data.write_text(data.read_text() + HOLDERS)
    text = job.read_text().replace("[prune]", '[prune]\nimportance = "fisher"')
    text = text.replace("calibration_samples = 128", "calibration_samples = 192")
    job.write_text(text.replace("steps = 40", "steps = 0"))
    device, files = job.with_name("exact.toml"), []
    for name in ("first", "second"):
        own = job.with_name(f"{name}.toml")
        own.write_text(job.read_text().replace("data:load", f"data:{name}"))
        files.append(tmp_path / f"{name}.safetensors")
        done = inside("importance", own, "--out", files[-1], "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["samples"], told["criteria"]) == (
            {"first": 64, "second": 128}[name],
            ["fisher"],
        )
    pooled = inside("run", job, "--device", device, "--out", tmp_path / "pooled", "--json")
    merged = inside(
        "run",
        job,
        "--device",
        device,
        "--out",
        tmp_path / "merged",
        "--json",
        "--importance",
        *files,
    )
    plans = [json.loads(done.stdout)["plan"] for done in (pooled, merged)]
    assert plans[0]["widths"] == plans[1]["widths"]
    assert (
        plans[0]["digest"] == plans[1]["digest"]
    )  # the kept channels too: Fisher scores are means

    # another model: other weights; and nothing is reused of a run with other scores
    state = load_file(job.with_name("dense.safetensors"))
    state["0.weight"] += 0.01
    save_file(state, job.with_name("dense.safetensors"))
    refused = inside(
        "run", job, "--device", device, "--out", tmp_path / "other", "--importance", files[0]
    )
    assert refused.returncode == 2
    assert "scores of another model" in refused.stderr
    assert "weights:" in refused.stderr
    assert "architecture" not in refused.stderr
    assert "Profiling" not in refused.stderr  # before anything is measured
    assert not (tmp_path / "other" / ".run").exists()


def test_scores_do_not_serve_a_schedule_of_several_steps(job: Path, inside, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    job.write_text(job.read_text() + '[schedule]\nkind = "progressive"\n')
    device = job.with_name("exact.toml")
    done = inside("run", job, "--device", device, "--importance", "none.safetensors")
    assert done.returncode == 2
    assert "schedule progressive estimates importance anew" in done.stderr


def test_sensitivity_shows_every_group_and_needs_no_budget(job: Path, inside) -> None:  # type: ignore[no-untyped-def]
    text = job.read_text().replace('latency = "60%"\n', "")
    job.write_text(text.replace("[prune]", '[prune]\nimportance = ["l2", "fisher"]'))
    done = inside("sensitivity", job, "--device", job.with_name("exact.toml"), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["chosen"].keys() == {"0", "3", "6"}
    assert {(c["group"], c["criterion"]) for c in document["curves"]} == {
        (group, criterion) for group in "036" for criterion in ("l2", "fisher")
    }
    for curve in document["curves"]:
        assert len(curve["widths"]) == len(curve["increases"]) == len(curve["drops"])
        assert (curve["increases"][-1], curve["drops"][-1]) == (0.0, 0.0)
    assert "of l2, fisher: least loss where the group alone is cut" in done.stderr
    assert "a plan" not in [line[:6] for line in done.stderr.splitlines()]
    again = inside("sensitivity", job, "--device", job.with_name("exact.toml"), "--json")
    assert json.loads(again.stdout)["curves"] == document["curves"]


@pytest.mark.parametrize("reconstruct", [True, False])
def test_curves_and_plan_say_which_ranking_each_names(job: Path, inside, reconstruct: bool) -> None:  # type: ignore[no-untyped-def]
    text = job.read_text().replace("[prune]", '[prune]\npolish = false\nimportance = "auto"')
    text = text.replace("[recover]", f"[recover]\nreconstruct = {str(reconstruct).lower()}")
    # with weights that nobody trained, several criteria are best somewhere
    job.write_text(text.replace('weights = "dense.safetensors"\n', ""))
    device = ("--device", job.with_name("exact.toml"), "--json")
    looked = inside("sensitivity", job, *device)
    assert looked.returncode == 0, looked.stderr
    best = json.loads(looked.stdout)["chosen"]
    assert set(best.values()) != {"refit_error"}, "curves are of what is not re-fitted"
    planned = inside("plan", job, *device)
    assert planned.returncode == 0, planned.stderr
    named = json.loads(planned.stdout)["criteria"]
    others = [name for name in best if named[name] != best[name]]
    said = f"ranks channels by refit_error instead, in {len(others)} of {len(best)} groups"
    assert (said in looked.stderr) is reconstruct
    assert set(named.values()) == {"refit_error"} if reconstruct else named == best
    assert "ranked by" in planned.stderr
    assert "where recovery reconstructs, refit_error" in " ".join(planned.stderr.split())


def test_a_look_at_curves_asks_for_no_budget(job: Path, inside, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def refused(*_: Any) -> None:
        raise BudgetError("a budget was asked for")

    monkeypatch.setattr(allocating, "check_budgets", refused)
    done = inside("sensitivity", job, "--device", job.with_name("exact.toml"), "--json")
    assert done.returncode == 0, done.stderr


def test_scores_overwrite_nothing_but_scores(job: Path, inside, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text, scores = job.read_text(), tmp_path / "scores.safetensors"
    done = inside("importance", job, "--out", job)
    assert (done.returncode, job.read_text()) == (2, text)
    assert "is there and holds no scores" in done.stderr
    for _ in range(2):
        done = inside("importance", job, "--out", scores)
        assert (done.returncode, scores.is_file()) == (0, True)


def test_scores_that_could_not_be_written_are_not_taken(job: Path, inside) -> None:  # type: ignore[no-untyped-def]
    done = inside("importance", job, "--out", job / "scores.safetensors")
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Scoring" not in done.stderr


@pytest.mark.slow
def test_to_look_at_curves_no_plan_is_measured_whole(job: Path, inside, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    fit, fitted = pricing.fit_to_whole_plans, []

    def noted(*arguments: Any, **options: Any) -> Any:
        fitted.append(command)
        return fit(*arguments, **options)

    monkeypatch.setattr(pricing, "fit_to_whole_plans", noted)
    for command in ("sensitivity", "plan"):
        done = inside(command, job, "--device", "simulated")
        assert done.returncode == 0, done.stderr
    assert fitted == ["plan"]


def test_sensitivity_of_a_model_that_a_mask_makes_fast_enough(job: Path, inside) -> None:  # type: ignore[no-untyped-def]
    job.write_text(job.read_text() + '[mask]\nkind = "ln_structured"\namount = 0.25\n')
    done = inside("sensitivity", job, "--device", job.with_name("exact.toml"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["chosen"].keys() == {"0", "3", "6"}


@pytest.mark.parametrize("target", ["torch.empty(0)", "torch.tensor(0.0)"])
def test_scores_of_data_without_labels_count_its_samples(  # type: ignore[no-untyped-def]
    target: str, job: Path, inside, tmp_path: Path
) -> None:
    data = job.with_name("data.py")
    unlabelled = f"[(x, {target}) for x, _ in batches(192, 2)]"
    data.write_text(data.read_text().replace("batches(192, 2)", unlabelled))
    job.write_text(job.read_text().replace("[prune]", '[prune]\nimportance = ["l2", "activation"]'))
    for wanted, used in ((100, 100), (500, 192)):
        text = job.read_text()
        job.write_text(
            re.sub(r"calibration_samples = \d+", f"calibration_samples = {wanted}", text)
        )
        out = tmp_path / f"{wanted}.safetensors"
        done = inside("importance", job, "--out", out, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["samples"] == used
        assert read_scores(out).origin.samples == used


@pytest.mark.parametrize(
    ("wanted", "used", "loss"),
    [(100, 128, "sensitivity"), (5000, 192, "sensitivity"), (100, 100, "importance")],
)
def test_the_look_at_curves_tells_the_samples_that_they_are_from(  # type: ignore[no-untyped-def]
    wanted: int, used: int, loss: str, job: Path, inside
) -> None:
    text = job.read_text().replace("samples = 128", f'samples = {wanted}\nloss = "{loss}"')
    job.write_text(text.replace("[prune]", '[prune]\nimportance = "l2"'))
    done = inside("sensitivity", job, "--device", job.with_name("exact.toml"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == used
