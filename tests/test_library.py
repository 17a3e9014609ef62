"""The job from Python: what is wrong with its arguments is told like faults of a job file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.errors import JobError


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"prune": {"importance": "nonsense"}}, "no importance 'nonsense'"),
        ({"latency": "500%"}, "not between 0 % and 100 %"),
        ({"recover": {"stepps": 3}}, "recover.stepps: unknown key"),
    ],
)
def test_faults_of_sections_are_told(tmp_path: Path, arguments: dict, fault: str) -> None:
    batch = (torch.randn(4, 3), torch.zeros(4, dtype=torch.long))
    data = edgeprune.Data(batch[0][:1], None, [batch], [batch])
    with pytest.raises(JobError, match=r"edgeprune\.slim: 1 fault") as told:
        edgeprune.slim(nn.Linear(3, 2), data, device="simulated", out=tmp_path / "out", **arguments)
    assert fault in str(told.value)
    assert not (tmp_path / "out").exists()
