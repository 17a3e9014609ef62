"""A backbone that no gradient leads to: said on the screen, in JSON, and where nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1)
        self.c3, self.c4 = nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 32, 3, 1, 1)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        with torch.no_grad():
            x = self.c2(self.c1(x).relu()).relu()
        return self.head(self.c4(self.c3(x).relu()).relu().mean((2, 3)))


class Whole(Net):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


def build():
    torch.manual_seed(0)
    return Net().eval()


def whole():
    return Whole().eval()
"""


def written(job: Path, factory: str = "build") -> Path:
    job.with_name("model.py").write_text(MODEL)
    text = job.read_text().replace('weights = "dense.safetensors"\n', "").replace("60%", "80%")
    job.write_text(text.replace("model:build", f"model:{factory}"))
    return job


@pytest.mark.slow
def test_a_backbone_without_gradients_is_told_and_its_head_is_cut(job: Path, inside) -> None:  # type: ignore[no-untyped-def]
    done = inside("plan", written(job), "--device", job.with_name("exact.toml"), "--json")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert told.count("warning: left alone: c1, c2: its output carries no gradient: forward") == 1
    document = json.loads(done.stdout)
    assert set(document["widths"]) == {"c3", "c4"}
    found = {one["name"]: (one["width"], one["reason"]) for one in document["skipped"]}
    assert {name: width for name, (width, _) in found.items()} == {"c1": 16, "c2": 32, "head": 4}
    assert "torch.no_grad()" in found["c1"][1]
    assert found["head"][1] == "it is the model's output"


@pytest.mark.parametrize("command", ["run", "plan", "sensitivity"])
def test_a_model_without_gradients_is_refused(command: str, job: Path, inside) -> None:  # type: ignore[no-untyped-def]
    done = inside(command, written(job, "whole"), "--device", job.with_name("exact.toml"))
    assert done.returncode == 5
    told = " ".join(done.stderr.split())
    assert "c1, c2, c3, c4: its output carries no gradient: forward runs it under" in told
    assert "Traceback" not in told
