"""The language model: its text, its job on a simulated device, its tables."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
import sys
import types
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from edgeprune.job import load_job
from edgeprune.loading import load_data, load_model
from edgeprune.records import Trial, Trials

FOLDER = Path(__file__).resolve().parents[2] / "examples/language_model"
SIMULATED = """\
# edgeprune run job.toml --device exact.toml
title = "An exact staircase"
kind = "cpu"
runtime = "simulated"
transport = "simulated"
unit = "us"
figure = "estimated"
[simulation]
step = 4
macs_per_us = 200.0
"""


def imported(name: str) -> types.ModuleType:
    """Import a program of the folder; its neighbours `data` and `model` are its own."""
    for other in ("data", "model"):
        sys.modules.pop(other, None)
    spec = importlib.util.spec_from_file_location(f"language_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data() -> types.ModuleType:
    return imported("data")


def test_no_held_out_text_was_seen_before(data) -> None:
    train, validation, test = (
        "".join(data.CHARACTERS[int(k)] for k in part) for part in data.split()
    )
    whole = len(train) + len(validation) + len(test)
    assert whole > 250_000
    assert 0.85 < len(train) / whole < 0.95
    assert min(len(validation), len(test)) > 5000
    for part in (validation, test):
        lines = [line for line in part.split("\n") if len(line) >= data.REPEATED]
        pieces = [
            line[i : i + data.REPEATED] for line in lines for i in range(0, len(line) - 59, 7)
        ]
        assert len(pieces) > 500
        assert not any(piece in train for piece in pieces)


def test_a_target_is_the_character_that_follows(data) -> None:
    loaded = data.load(seed=3)
    for part in (loaded.train, loaded.calibration, loaded.validation, loaded.test):
        inputs, target = next(iter(part))
        assert inputs.shape == target.shape == (len(inputs), data.WINDOW)
        assert torch.equal(inputs[:, 1:], target[:, :-1])
        assert 0 <= int(inputs.min()) <= int(inputs.max()) < len(data.CHARACTERS) == 96
    first, again = (next(iter(data.load(seed=3).train))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, next(iter(data.load(seed=4).train))[0])


def test_the_metric_is_minus_the_logarithm_of_perplexity(data) -> None:
    certain = torch.full((2, 96, 3), -math.inf)
    certain[:, 5] = 0.0
    target = torch.full((2, 3), 5)
    assert data.negative_log_perplexity(certain, target) == 0.0
    even = torch.zeros(2, 96, 3)
    assert data.negative_log_perplexity(even, target) == pytest.approx(-math.log(96))


def test_the_job_asks_for_a_perplexity_at_most_five_per_cent_above() -> None:
    job = load_job(FOLDER / "job.toml")
    assert math.exp(job.budget.max_accuracy_drop) == pytest.approx(1.05, abs=1e-4)
    assert job.budget.latency == "50%"


def test_the_committed_weights_have_the_perplexity_they_claim(data) -> None:
    from safetensors import safe_open

    job = load_job(FOLDER / "job.toml")
    model, loaded = load_model(job, FOLDER), load_data(job, FOLDER)
    some = list(loaded.test)[:2]
    with torch.inference_mode():
        found = [data.negative_log_perplexity(model(x), y) for x, y in some]
    with safe_open(FOLDER / "dense.safetensors", "pt") as file:
        claimed = float(file.metadata()["test_perplexity"])
    assert claimed < 4.3
    assert math.exp(-sum(found) / len(found)) == pytest.approx(claimed, rel=0.25)  # of 64 windows


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_job_makes_both_layers_narrower(tmp_path: Path) -> None:
    for name in ("data.py", "model.py", "dense.safetensors"):
        shutil.copy(FOLDER / name, tmp_path)
    text = (FOLDER / "job.toml").read_text()
    text = text.replace("steps = 1200", "steps = 10").replace("0.0488", "1.0")
    (tmp_path / "job.toml").write_text(text + "[prune]\ncalibration_samples = 64\n")
    (tmp_path / "exact.toml").write_text(SIMULATED)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "edgeprune", "run", tmp_path / "job.toml", "--json", "--quiet",
         "--device", tmp_path / "exact.toml", "--out", out],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    widths = verdict["plan"]["widths"]
    assert widths.keys() == {"lstm1", "lstm2"}
    assert sum(after for _, after in widths.values()) < 0.85 * 2 * 192
    assert verdict["metric"] == "negative_log_perplexity"
    assert verdict["parity"]["passed"]
    nodes = {n.name: n for n in onnx.load(out / "model.onnx").graph.node if n.op_type == "LSTM"}
    sizes = [next(a.i for a in n.attribute if a.name == "hidden_size") for n in nodes.values()]
    assert sizes == [widths["lstm1"][1], widths["lstm2"][1]]
    session = onnxruntime.InferenceSession(out / "model.onnx")
    assert session.get_inputs()[0].type == "tensor(int64)"
    report = (out / "report.html").read_text()
    assert "Groups of channels" in report
    assert "Weights of layers before and after the cut" in report


def test_tables_are_made_of_trials_and_verdict() -> None:
    from tests import factories

    program = imported("experiments")
    trials = Trials(
        title="t", metric="m", dense=-1.4, parameters=10, conditions={},
        trials=tuple(
            Trial(experiment="seeds", method=name, share=0.3, seed=seed, recalibrated=-2.0,
                  metric=-math.log(4 + seed), parameters=5, kept={"a": (0, 1)})
            for name in program.CRITERIA for seed in program.SEEDS
        ),
    )  # fmt: skip
    lines = program.comparison(trials).splitlines()
    assert len(lines) == 2 + len(program.CRITERIA)
    assert lines[2] == "| `fused` | 7.389 (7.389 to 7.389) | 6.000 (4.000 to 8.000) | 1.000 |"
    dense, slim = (
        getattr(factories.a_verdict(), side).model_copy(update={"accuracy": -math.log(p)})
        for side, p in (("dense", 4.0), ("slim", 4.2))
    )
    verdict = factories.a_verdict(
        dense=dense, slim=slim, accuracy_drop_interval=(0.0, math.log(1.1))
    )
    table = program.result(verdict)
    assert "| perplexity | 4.000 | 4.200 | +5.0 % (+0.0 to +10.0) |" in table
    assert "| parameters | 308,394 | 81,290 | 0.264 |" in table
    verdict = verdict.model_copy(update={"accuracy_drop_interval": None})
    assert "| +5.0 % (interval not known) |" in program.result(verdict)
