"""Whatever a result depends on is part of the identity of its run, and is named when it changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgeprune.data import Data
from edgeprune.identity import identity_of
from edgeprune.job import Job

LEAST: dict[str, Any] = {
    "name": "j",
    "model": {"factory": "m:f"},
    "data": {"factory": "m:f"},
    "budget": {"latency": "50%"},
}
CHANGES: dict[str, Any] = {
    "budget.macs": {"latency": "50%", "macs": "40%"},
    "budget.max_accuracy_drop": {"latency": "50%", "max_accuracy_drop": 0.5},
    "mask": {"amount": 0.5},
    "collapse.max_error": {"max_error": 0.5},
    "prune.floors": {"floors": {"0": 4}},
    "prune.fused": {"fused": {"removals": 3}},
    "prune.polish": {"polish": False},
    "schedule.kind": {"kind": "progressive"},
    "regularise": {"kind": "growing"},
    "recover.adam": {"optimizer": "adam"},
    "guards.agreement": {"agreement": 0.5},
    "export.opset": {"opset": 19},
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_section_is_another_run_and_named(key: str, simulated) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).eval()
    batches = [(torch.randn(8, 4), torch.arange(8) % 3)]
    data, device = Data(torch.randn(1, 4), batches, batches, batches), simulated()
    section, _, name = key.partition(".")
    before = identity_of(Job.model_validate(LEAST), model, data, device)
    changed = Job.model_validate({**LEAST, section: CHANGES[key]})
    after = identity_of(changed, model, data, device)
    names = {one for one in before | after if before.get(one) != after.get(one)}
    assert names
    assert all(one.startswith(f"job.{section}") or one == "budget" for one in names)
    assert name in ("", "adam") or f"job.{key}" in names
