"""A run is another one when its data are: their contents, and the factory that makes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune import identity
from edgeprune.data import Data
from edgeprune.identity import identity_of
from edgeprune.job import Job
from edgeprune.loading import load_data
from edgeprune.report.console import Console
from edgeprune.stages.beginning import begun

Batches = list[tuple[Tensor, Tensor]]
MODULE = """
import torch
from edgeprune import Data

CLASSES = 3
SHIFT = 0
def labels(count):
    return torch.arange(count) % CLASSES

class Maker:
    @classmethod
    def data(cls):
        batches = [(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))]
        return Data(torch.zeros(1, 4), [(torch.zeros(6, 4), labels(6) + SHIFT) for _ in range(2)], batches, batches)
"""


def job_of(factory: str = "in_memory:data") -> Job:
    return Job.model_validate(
        {
            "name": "j",
            "model": {"factory": "m:f"},
            "data": {"factory": factory},
            "budget": {"latency": "50%"},
        }
    )


def batches(seed: int, count: int = 3) -> Batches:
    drawn = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 4, generator=drawn), torch.arange(8) % 3) for _ in range(count)]


def changed(before: Data, after: Data, simulated: Callable[[], Any]) -> list[str]:
    torch.manual_seed(0)
    model, job, device = nn.Linear(4, 3), job_of(), simulated()
    first, second = (identity_of(job, model, data, device) for data in (before, after))
    return [name for name in sorted(first | second) if first.get(name) != second.get(name)]


@pytest.mark.parametrize("part", ["calibration", "validation", "test"])
@pytest.mark.parametrize("what", ["inputs", "labels", "batches"])
def test_changed_data_are_another_run(part: str, what: str, simulated: Any) -> None:
    parts = {name: batches(seed) for seed, name in enumerate(("calibration", "validation", "test"))}
    before = Data(torch.zeros(1, 4), batches(9), **parts)
    inputs, labels = parts[part][-1]
    last = {
        "inputs": [(inputs + 1e-6, labels)],
        "labels": [(inputs, labels.roll(1))],
        "batches": [],
    }
    after = Data(torch.zeros(1, 4), batches(9), **{**parts, part: parts[part][:-1] + last[what]})
    assert changed(before, after, simulated) == [f"{part} data"]


def test_training_data_may_come_in_another_order(simulated: Any) -> None:
    before = Data(torch.zeros(1, 4), batches(9), *map(batches, (1, 2)))
    after = Data(torch.zeros(1, 4), batches(8), *map(batches, (1, 2)))
    assert changed(before, after, simulated) == []


class Endless:
    """Calibration data without an end, of which jobs take what they need."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield torch.zeros(512, 4), torch.zeros(512, dtype=torch.long)


def test_of_calibration_data_only_the_start_is_looked_at(simulated: Any) -> None:
    data = Data(torch.zeros(1, 4), None, Endless(), batches(1))
    assert changed(data, data, simulated) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CLASSES = 3", "CLASSES = 2"),  # what is global to it
        ("SHIFT = 0", "SHIFT = 1"),  # in a comprehension
        ("torch.arange(count)", "torch.arange(count).flip(0)"),  # what it calls
        ("torch.zeros(6, 4)", "torch.ones(6, 4)"),  # itself
    ],
)
def test_a_changed_factory_is_another_run(
    old: str, new: str, tmp_path: Path, simulated: Any
) -> None:
    """Its training data are told by it alone."""
    assert old in MODULE
    found = []
    for number, text in enumerate((MODULE, MODULE, MODULE.replace(old, new))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "made_here.py").write_text(text)
        job = job_of("made_here:Maker.data")
        data = load_data(job, folder)
        torch.manual_seed(0)
        found.append(identity_of(job, nn.Linear(4, 3), data, simulated()))
    sys.modules.pop("made_here")
    assert found[0] == found[1]
    names = [name for name, text in found[0].items() if found[2][name] != text]
    assert names == ["data factory"]


def test_what_is_not_kept_needs_no_look_at_the_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, simulated: Any
) -> None:
    def looked(*_: object) -> None:
        raise AssertionError("a pass over the data for nothing")

    monkeypatch.setattr(identity, "_looked_at", looked)
    data, out = Data(torch.zeros(1, 4), None, batches(1), batches(2)), tmp_path / "scratch"
    given = (job_of(), nn.Linear(4, 3), data, simulated(), out, Console(quiet=True))
    with begun(*given, scratch=True) as run:
        assert run.folder.identity == {}
    with pytest.raises(AssertionError, match="for nothing"), begun(*given):
        pass
