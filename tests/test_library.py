"""The job from Python: what is wrong with its arguments is told like faults of a job file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.devices.spec import profile_folder
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


def test_what_must_be_known_of_a_device_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device may be named by a path; quiet keeps progress away, not warnings."""
    text = (profile_folder() / "simulated.toml").read_text()
    profile = tmp_path / "odd.toml"
    profile.write_text('note = "a clock made of cheese"\n' + text)
    batch = (torch.randn(4, 3), torch.zeros(4, dtype=torch.long))
    data = edgeprune.Data(batch[0][:1], None, [batch], [batch])
    with pytest.raises(JobError):
        edgeprune.slim(nn.Linear(3, 2), data, device=profile, latency="500%", out=tmp_path / "out")
    assert "warning: a clock made of cheese" in capsys.readouterr().err
