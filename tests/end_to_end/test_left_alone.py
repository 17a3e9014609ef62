"""A group without prices is left alone, and every place that tells of groups says so and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
MODEL = '''
import torch
from torch import nn


class Branches(nn.Module):
    """Layers that read one group and write parts of another, which a concatenation joins."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(1, 24, 3, padding=1), nn.Conv2d(48, 48, 1)
        self.one, self.three = nn.Conv2d(24, 16, 1), nn.Conv2d(24, 32, 3, padding=1)
        self.head = nn.Linear(48, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = torch.cat([self.one(x), self.three(x)], 1).relu()
        return self.head((x + self.mix(x)).mean((2, 3)))


def build():
    torch.manual_seed(0)
    return Branches().eval()
'''
REASON = "since its output is one part (16) of a concatenation of 48 channels"


@pytest.fixture
def branches(job: Path) -> Path:
    (job.parent / "model.py").write_text(MODEL)
    text = job.read_text().replace('weights = "dense.safetensors"\n', "")
    job.write_text(text.replace("max_accuracy_drop = 0.05", "max_accuracy_drop = 1.0"))
    return job


@pytest.mark.slow
def test_report_card_and_screens_name_what_was_left_alone_and_why(
    branches: Path, inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    device, out = branches.parent / "exact.toml", tmp_path / "out"
    options = ("--device", device, "--budget", "80%")
    done = inside("plan", branches, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert [group["name"] for group in json.loads(done.stdout)["skipped"]][-1] == "mix"
    (row,) = [line for line in done.stderr.splitlines() if line.startswith("left alone")]
    assert "mix: layer " in row
    assert REASON in row

    done = inside("run", branches, *options, "--out", out)
    assert done.returncode in (0, 1), done.stderr  # an untrained model may miss its other gates
    (row,) = [line for line in done.stderr.splitlines() if line.startswith("left alone")]
    assert "mix: layer " in row
    assert REASON in row
    card = (out / "README.md").read_text()
    (row,) = [line for line in card.splitlines() if line.startswith("| mix |")]
    assert row.startswith("| mix | 48 | layer ")
    assert REASON in row
    report = (out / "report.html").read_text()
    assert "mix: 48 left alone" in report
    assert ">left alone: no prices<" in report
    assert "A dotted line is a group that has no prices" in report
    assert report.count(REASON) == 1
