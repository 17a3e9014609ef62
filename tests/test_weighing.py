"""What measuring sensitivity says of the calibration data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from edgeprune.data import Batch, Data
from edgeprune.importance.sensitivity import agreement, best_curves
from edgeprune.job import Job
from edgeprune.previews import sensitivity_only
from edgeprune.report.console import Console
from edgeprune.stages import weighing

JOB = {
    "name": "n",
    "model": {"factory": "a:b"},
    "data": {"factory": "a:c"},
    "budget": {"latency": "50%"},
}
FALL = "most cuts lower the loss on the calibration data"


def batches(wrong: float = 0.0, count: int = 6, size: int = 20) -> list[Batch]:
    """Four clouds of points, of which a share has another label than its own."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        y = torch.arange(size) % 4
        x = 3 * nn.functional.one_hot(y, 4) + 0.5 * torch.randn(size, 4, generator=generator)
        off = torch.rand(size, generator=generator) < wrong
        made.append((x, torch.where(off, (y + 1) % 4, y)))
    return made


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)]
    model = nn.Sequential(*layers)
    steps = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        for x, y in batches():
            steps.zero_grad()
            cross_entropy(model(x), y).backward()
            steps.step()
    return model.eval()


@pytest.fixture
def measured(trained: nn.Module, simulated, capsys, monkeypatch, tmp_path: Path):
    """Return the curves of calibration batches, and what the command writes to the screen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def measure(calibration: list[Batch], samples: int = 512):
        data = Data(calibration[0][0][:1], None, calibration, batches())
        job = Job.model_validate({**JOB, "prune": {"calibration_samples": samples}})
        found, ranked = sensitivity_only(job, trained, data, simulated(step=4), Console(quiet=True))
        chosen = best_curves(found.curves)
        told = capsys.readouterr().err
        Console().sensitivity(
            found.curves, chosen, data.metric_name, ranked, agreed=agreement(chosen)
        )
        return chosen, " ".join(told.split()), capsys.readouterr().err

    return measure


def test_wrong_labels_are_told_since_every_cut_seems_free(measured) -> None:
    chosen, told, _ = measured(batches(wrong=0.9))
    assert all(curve.increases[0] < -0.1 for curve in chosen.values())
    assert f"warning: {FALL} (2 of 2 groups at their narrowest width)" in told
    assert "its labels or the loss may not fit the model" in told


def test_right_labels_are_not_warned_of(measured) -> None:
    chosen, told, screen = measured(batches())
    assert all(curve.increases[0] > 0.05 for curve in chosen.values())
    assert FALL not in told
    assert "order          rank correlation of the cuts" in screen


def test_falls_within_noise_are_not_warned_of(measured, monkeypatch) -> None:
    monkeypatch.setattr(weighing, "LITTLE", 1e9)
    chosen, told, _ = measured(batches(wrong=0.9))
    assert all(curve.increases[0] < 0 for curve in chosen.values())
    assert FALL not in told


def test_a_single_batch_says_that_the_order_is_not_known(measured) -> None:
    _, _, screen = measured(batches(count=1))
    assert "order          not known: the calibration samples used are one batch" in screen


@pytest.mark.parametrize(
    ("samples", "way_out"),
    [
        (512, "give more calibration data (now 120 samples)"),
        (120, "give more calibration data (now 120 samples)"),
        (50, "raise [prune] calibration_samples (now 50)"),
    ],
)
def test_curves_that_need_more_samples_say_where_these_come_from(
    measured, monkeypatch, samples: int, way_out: str
) -> None:
    monkeypatch.setattr(weighing, "AGREED", 1.1)  # no curves are sure enough
    _, told, _ = measured(batches(), samples)
    assert f", so the curves need more samples: {way_out}" in told
