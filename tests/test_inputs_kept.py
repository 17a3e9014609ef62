"""Models that write into their inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgeprune
from edgeprune.data import Data
from edgeprune.errors import UnsupportedModelError
from edgeprune.fitting import check_inputs_kept
from edgeprune.job import Job
from edgeprune.pipeline import load


class Begins(nn.Module):
    """Does something to its input, then a linear layer."""

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = first, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def data_of(example: Tensor) -> Data:
    torch.manual_seed(0)
    batch = [(torch.rand(4, 3), torch.zeros(4, dtype=torch.long))]
    return Data(example, None, batch, batch)


@pytest.mark.parametrize(
    ("first", "example"),
    [
        (lambda x: x.sub_(0.5), torch.rand(1, 3)),
        (lambda x: x.sub_(0.5), torch.zeros(1, 3)),
        (lambda x: x.div_(255.0), torch.zeros(1, 3)),  # shows on the calibration batch alone
        (nn.ReLU(inplace=True), torch.tensor([[-1.0, 0.0, 1.0]])),
        (lambda x: x.unsqueeze_(0), torch.rand(1, 3)),
    ],
    ids=["mean", "zeros", "scale", "relu", "shape"],
)
def test_a_model_that_writes_into_its_input_is_refused(
    first: Callable[[Tensor], Tensor], example: Tensor
) -> None:
    data = data_of(example)
    before = example.clone(), data.calibration[0][0].clone()
    with pytest.raises(UnsupportedModelError, match="changes its input in place") as caught:
        check_inputs_kept(Begins(first), data)
    assert "x = x - mean" in caught.value.hint
    assert torch.equal(example, before[0])
    assert torch.equal(data.calibration[0][0], before[1])


@pytest.mark.parametrize(
    "first",
    [
        lambda x: x - 0.5,
        lambda x: (x - 0.5).clamp_(0.0),
        lambda x: x.clamp_(0.0, 1.0),  # leaves such data as they are
        lambda x: x[:, :2],  # does not run: told by another check
    ],
    ids=["copy", "copy then in place", "no change", "fails"],
)
@pytest.mark.parametrize(
    "example", [torch.zeros(1, 3), torch.tensor([[0.2, torch.nan, 0.4]])], ids=["zeros", "nan"]
)
def test_other_models_are_let_through(first: Callable[[Tensor], Tensor], example: Tensor) -> None:
    check_inputs_kept(Begins(first), data_of(example))


def test_a_second_input_counts_too() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y.mul_(2.0)

    inputs = torch.rand(1, 3), torch.rand(1, 3)
    with pytest.raises(UnsupportedModelError, match="in place"):
        check_inputs_kept(Two(), Data(inputs, None, [], []))


SOURCE = """\
import torch
from edgeprune.data import Data

class InPlace(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.two(self.one(x.sub_(0.5)).relu())

def build():
    return InPlace()

def load():
    batch = [(torch.rand(4, 3), torch.zeros(4, dtype=torch.long))]
    return Data(batch[0][0][:1].clone(), None, batch, batch)
"""


def test_jobs_and_models_in_memory_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "toy_in_place.py").write_text(SOURCE)
    job = Job.model_validate(
        {
            "name": "j",
            "model": {"factory": "toy_in_place:build"},
            "data": {"factory": "toy_in_place:load"},
        }
    )
    with pytest.raises(UnsupportedModelError, match="in place"):
        load(job, tmp_path)
    model = Begins(lambda x: x.sub_(0.5))
    with pytest.raises(UnsupportedModelError, match="in place"):
        edgeprune.slim(model, data_of(torch.rand(1, 3)), device="simulated", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
