"""The whole plans to which the prices of a job are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.job import Job
from edgeprune.pipeline import prices_of
from edgeprune.records import CostTable
from edgeprune.report.console import Console
from edgeprune.stages.base import Run
from edgeprune.store import RunFolder

JOB = {
    "name": "n",
    "model": {"factory": "a:b"},
    "data": {"factory": "a:c"},
    "budget": {"latency": "60%"},
}


def priced(build: Any, device: Any, name: str, folder: Path, **prune: Any) -> CostTable:
    model, inputs = build(name)
    batches = [(inputs, torch.zeros(len(inputs[0]), dtype=torch.int64))]
    data = Data(inputs, batches, batches, batches)
    job = Job.model_validate({**JOB, "prune": {"loss": "importance", "importance": "l2", **prune}})
    with RunFolder(folder, {}, resume=False) as run:
        return prices_of(Run(job, model, data, device, run, Console(quiet=True))).table


@pytest.mark.parametrize(
    ("prune", "gone"),
    [
        ({}, [{"a1", "a2", "b1", "b2"}, {"a1", "a2"}]),
        ({"keep": ["b2_bn"]}, [{"a1", "a2"}]),
        ({"blocks": False}, []),
    ],
    ids=["both", "one", "none"],
)
def test_models_without_their_branches_are_among_the_whole_plans(
    build, simulated, tmp_path: Path, prune: dict[str, Any], gone: list[set[str]]
) -> None:
    table = priced(build, simulated(), "residual", tmp_path, **prune)
    without = [plan for plan in table.whole if plan.gone]
    assert [{*plan.gone} for plan in without] == gone
    for plan in without:
        assert plan.widths == {group: widths[-1] for group, widths in table.widths.items()}
        assert plan.share < 0.95


class Restored(nn.Module):
    """Either of two branches gives a sum its pixels; without both it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.a, self.b = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = x.mean((2, 3), keepdim=True)
        y = y + self.b(self.a(x).relu()) + self.d(self.c(x).relu())
        return self.head(self.last(y).relu().mean((2, 3)))


def test_a_model_without_branches_that_runs_at_other_shapes_is_left_out(
    simulated, tmp_path: Path, capsys
) -> None:
    def build(_: str) -> tuple[nn.Module, Any]:
        return Restored().eval(), torch.randn(1, 3, 8, 8)

    table = priced(build, simulated(), "restored", tmp_path)
    assert [{*plan.gone} for plan in table.whole if plan.gone] == [{"a", "b"}]
    assert "the model without b, d tells no prices" in capsys.readouterr().err
