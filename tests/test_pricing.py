"""The whole plans to which the prices of a job are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

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
