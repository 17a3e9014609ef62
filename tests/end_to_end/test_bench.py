"""edgeprune bench on an exact simulated device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.allocation.registry import ALLOCATORS
from edgeprune.bench.variants import Variant, everything, variant
from edgeprune.errors import UsageError
from edgeprune.sections import AUTO

METHODS = "exact,uniform/l2,retention,narrower,scratch"
NARROW = """

def build_narrow(width):
    wide = [max(1, round(width * w)) for w in (16, 32, 32)]
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, wide[0], 3, padding=1, bias=False), nn.BatchNorm2d(wide[0]), nn.ReLU(),
        nn.Conv2d(wide[0], wide[1], 3, 2, 1, bias=False), nn.BatchNorm2d(wide[1]), nn.ReLU(),
        nn.Conv2d(wide[1], wide[2], 3, 1, 1, bias=False), nn.BatchNorm2d(wide[2]), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide[2], 4),
    )
"""


@pytest.fixture
def narrow(job: Path) -> Path:
    """The job with a factory that takes a width."""
    model = job.with_name("model.py")
    model.write_text(model.read_text() + NARROW)
    job.write_text(job.read_text() + '[bench]\nnarrower = "model:build_narrow"\ndense_steps = 20\n')
    return job


@pytest.mark.slow
def test_methods_at_equal_cost_kept_row_by_row(narrow, inside, tmp_path) -> None:
    out = tmp_path / "out"
    words = ["bench", narrow, "--device", narrow.with_name("exact.toml"), "--out", out, "--json"]
    words += ["--budget", "60%,40%", "--methods", METHODS, "--steps", "20"]
    done = inside(*words, "--seeds", "0")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {"schema", "device", "unit", "target", "seeds", "rows", "dense"} <= document.keys()
    assert (document["target"], document["targets"]) == (
        pytest.approx(0.6),
        pytest.approx([0.6, 0.4]),
    )
    assert (document["seeds"], document["kind"], document["unit"]) == ([0], "estimated", "us")
    assert document["dense"]["accuracy"] > 0.9
    rows = document["rows"]
    assert [row["method"] for row in rows[:5]] == METHODS.split(",")
    assert len(rows) == 10
    for row in rows:
        assert {"method", "seed", "cost_ratio", "accuracy_before_recovery", "accuracy", "macs_ratio", "seconds"} <= row.keys()  # fmt: skip
        if row["method"] != "retention":  # it has no knob
            assert row["cost_ratio"] <= row["target"] + 1e-9
        assert 0 < row["macs_ratio"] <= 1
        trained = row["method"] in ("narrower", "scratch")
        assert (row["accuracy_before_recovery"] is None) == trained
        assert row["dense_steps"] == (20 if trained else 0)
    same = [row for row in rows if row["method"] == "retention"]  # one plan for all budgets
    assert [row["target"] for row in same] == pytest.approx([0.6, 0.4])
    assert len({(row["accuracy"], row["seconds"]) for row in same}) == 1  # trained once
    ours = [row for row in rows if row["method"] == "exact"]
    assert all(0.97 <= row["cost_ratio"] / row["target"] <= 1 for row in ours)
    assert [row["cost_ratio"] for row in rows if row["method"] == "scratch"] == [
        row["cost_ratio"] for row in ours
    ]
    assert "retention" in done.stderr
    assert "are estimates, not measurements" in done.stderr
    page = (out / "bench.html").read_text()
    assert page.count("<svg") == 2
    assert "nothing here was measured on a device" in page
    assert json.loads((out / "bench.json").read_text()) == document

    kept = out / ".run" / "rows.jsonl"
    before = kept.read_text()
    with kept.open("a") as stream:
        stream.write('{"method": "exa')  # a crash in the middle of a line
    again = inside(*words[:-4], "--methods", "exact", "--steps", "20", "--seeds", "0,1", "--resume")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)["rows"]
    assert found[:2] == ours
    assert [row["seed"] for row in found] == [0, 0, 1, 1]
    assert kept.read_text().startswith(before)
    measured = (out / ".run" / "measured.jsonl").read_text()
    assert len({json.loads(line)["plan"] for line in measured.splitlines()}) == len(
        measured.splitlines()
    )
    refused = inside("bench", narrow, "--device", "simulated", "--out", out, "--budget", "60%", "--resume")  # fmt: skip
    assert (refused.returncode, "device: was" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_what_cannot_be_compared_is_said(job, inside, tmp_path) -> None:
    device = job.with_name("exact.toml")
    words = ["bench", job, "--device", device, "--out", tmp_path / "out", "--seeds", "0"]
    done = inside(*words, "--methods", "narrower,exact", "--steps", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert "narrower is left out: there is nothing to compare before training" in done.stderr
    document = json.loads(done.stdout)
    assert document["skipped"] == ["narrower: there is nothing to compare before training"]
    assert [row["method"] for row in document["rows"]] == ["exact"]
    alone = inside(*words, "--methods", "narrower,scratch", "--steps", "0")
    assert alone.returncode == 2, alone.stderr
    assert "nothing is left to compare: narrower, scratch" in alone.stderr
    half = inside(*words, "--methods", "exact", "--steps", "1.5")
    assert half.returncode == 2
    assert "'1.5' is not a whole number" in " ".join(half.stderr.replace("│", " ").split())
    none = inside(*words, "--methods", "exact", "--budget", "1%")
    assert none.returncode == 1
    assert "cannot be reached: the smallest reachable cost is" in none.stderr
    assert "%" in none.stderr


@pytest.mark.slow
def test_parts_of_the_job_without_a_part_in_it_are_named(job, inside, tmp_path) -> None:
    parts = '[schedule]\nkind = "progressive"\n[regularise]\nkind = "bn_scale"\n'
    job.write_text(job.read_text() + f'{parts}[guards]\nagreement = 0.9\nlayers = ["0"]\n')
    words = ["bench", job, "--device", job.with_name("exact.toml"), "--out", tmp_path / "out"]
    done = inside(*words, "--seeds", "0", "--methods", "exact", "--steps", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert (
        "warning: [schedule], [regularise], [guards] agreement of the job: not heeded"
        in done.stderr
    )
    assert "[guards] layers" not in done.stderr  # those are kept
    plan = next((tmp_path / "out" / ".run").glob("plan-*.json"))
    assert set(json.loads(plan.read_text())["result"]["groups"]) == {"3", "6"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "exact,unifrom"], "no allocation 'unifrom'; did you mean 'uniform'?"),
        (["--methods", "global/fisher"], f"the job scores channels by {', '.join(AUTO)} only"),
        (["--methods", "netadapt@8"], "@ gives the multiple that widths are rounded to"),
        (["--methods", "netadapt@8"], "\n  write netadapt\n"),
        (["--methods", " ,"], "--methods ' ,' names none"),
        (["--seeds", "0,x"], "seeds are whole numbers"),
        (["--seeds", "1,1"], "a seed is named twice"),
        (["--budget", "50%,50%"], "a budget is named twice"),
        (["--budget", "50%,huge"], "budget 'huge' cannot be read"),
        (["--budget", "1Minsn"], "this device's unit is us"),
    ],
)
def test_bad_input(job, inside, extra: list[str], message: str) -> None:
    done = inside("bench", job, "--device", job.with_name("exact.toml"), *extra)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (job.parent / "bench").exists()


def test_variants() -> None:
    assert variant("global/l2@8", ("taylor", "l2")) == Variant("global", "l2", 8)
    labels = [v.label for v in everything(("taylor", "l2"))]
    assert labels[0] == "exact"
    assert labels[-2:] == ["narrower", "scratch"]
    assert {"global/taylor", "global/taylor@8", "global/l2@16", "halp/taylor", "netadapt"} <= {
        *labels
    }
    assert {label.partition("/")[0] for label in labels} == {*ALLOCATORS, "narrower", "scratch"}
    assert len(set(labels)) == len(labels)
    with pytest.raises(UsageError, match=r"known: exact, uniform.*narrower, scratch"):
        variant("best", ())


TRANSPOSED = """

def build_transposed():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()
"""


@pytest.mark.slow
def test_a_criterion_of_auto_that_cannot_score_the_model_is_left_out(job, inside, tmp_path) -> None:
    model = job.with_name("model.py")
    model.write_text(model.read_text() + TRANSPOSED)
    text = job.read_text().replace('"model:build"', '"model:build_transposed"')
    job.write_text(text.replace('weights = "dense.safetensors"\n', ""))
    words = ["bench", job, "--device", job.with_name("exact.toml"), "--out", tmp_path / "out"]
    done = inside(
        *words, "--steps", "0", "--methods", "uniform/output_error,uniform/l2", "--budget", "80%",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    why = "uniform/output_error: importance output_error cannot score the model"
    document = json.loads(done.stdout)
    assert document["skipped"] == [why]
    assert [row["method"] for row in document["rows"]] == ["uniform/l2"]
