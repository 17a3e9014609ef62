from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgeprune.data import Data
from edgeprune.devices.spec import load_spec
from edgeprune.errors import UserFunctionError
from edgeprune.job import Job
from edgeprune.pruning.groups import find_groups
from edgeprune.report.console import Console
from edgeprune.stages.allocating import by_criterion
from edgeprune.stages.base import _tell_of_another_speed, find
from edgeprune.stages.weighing import score


@pytest.mark.parametrize(
    ("device", "before", "now", "told"),
    [
        ("mobile_cpu", 820.0, 667.0, True),
        ("mobile_cpu", 667.0, 820.0, True),
        ("mobile_cpu", 650.0, 667.0, False),
        ("simulated", 820.0, 667.0, False),
    ],
)
def test_a_dense_model_that_costs_another_time_than_profiled_is_told(
    device: str, before: float, now: float, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profile taken beside other programs: its microseconds are not those of the verdict."""
    run = SimpleNamespace(
        device=SimpleNamespace(spec=load_spec(device)), console=Console(quiet=True)
    )
    _tell_of_another_speed(run, before, now)
    words = capsys.readouterr().err
    assert ("warning: the dense model took" in words) is told
    if told:
        assert f"took {before:.0f} µs" in words
        assert f"{now:.0f} µs in the verdict" in " ".join(words.split())


def test_a_loss_that_is_not_finite_ends_auto_and_is_not_passed_over() -> None:
    """A criterion that cannot score a layer is left out of "auto"; a fault of the loss is not."""
    job = Job.model_validate(
        {
            "name": "j",
            "model": {"factory": "in_memory:model"},
            "data": {"factory": "in_memory:data"},
            "budget": {"latency": "50%"},
            "prune": {"importance": "auto"},
        }
    )
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x, told = torch.randn(8, 2), []
    groups = find_groups(model, (x[:1],))

    def scored(data: Data) -> set[str]:
        return set(score(job, model, data, groups, told.append))

    labels = torch.zeros(8, dtype=torch.long)
    assert "taylor" in scored(Data(x[:1], None, [(x, labels)], []))
    told.clear()
    broken = Data(x[:1], None, [(x, labels)], [], loss=lambda y, t: y.sum() * math.nan)
    with pytest.raises(UserFunctionError, match="loss returned nan for 8 samples"):
        scored(broken)
    assert told == []


def test_the_first_criterion_of_the_job_spans_groups_whatever_order_a_file_has(
    tmp_path: Path,
) -> None:
    names = ("taylor", "l2", "fpgm")
    given = {f"{name}/{group}": torch.rand(4) for name in names for group in ("b", "a")}
    save_file(given, tmp_path / "scores.safetensors")
    found = by_criterion(load_file(tmp_path / "scores.safetensors"), ("taylor", "bn_scale", "l2"))
    assert list(found) == ["taylor", "l2", "fpgm"]  # what the job does not name comes last
    for name, groups in found.items():
        for group, one in groups.items():
            assert torch.equal(one, given[f"{name}/{group}"])
        assert set(groups) == {"a", "b"}


def test_layers_that_are_never_cut_are_told_by_the_key_that_names_them(build) -> None:
    model, inputs = build("plain")
    settings = {
        "name": "j",
        "model": {"factory": "in_memory:model"},
        "data": {"factory": "in_memory:data"},
        "budget": {"latency": "50%"},
        "prune": {"keep": ["conv1"]},
        "guards": {"layers": ["conv1", "conv2"]},
    }
    job = Job.model_validate(settings)
    data = Data(inputs, None, [], [])
    reasons = {one.name: one.reason for one in find(job, model, data, none=True).skipped}
    assert reasons["conv1"] == "prune.keep names conv1"
    assert reasons["conv2"] == "guards.layers names conv2"
