"""Buffers that hold infinity on purpose, as causal masks do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import WeightsError
from edgeprune.export.onnx_graph import export
from edgeprune.fitting import check_runs
from edgeprune.loading import check_finite
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.recovery.training import side_by_side
from edgeprune.sections import RecoverSection

SHAPE = (8, 6, 4)  # samples, steps, features


class Causal(nn.Module):
    """One step of attention that looks at the past alone, and a linear layer behind it."""

    def __init__(self, steps: int = 6) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 3)
        future = torch.full((steps, steps), -torch.inf).triu(1)
        self.register_buffer("future", future)
        self.register_buffer("order", torch.arange(steps))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) + self.future
        seen = scores.softmax(-1) @ self.value(x)
        return self.head(self.hidden(seen).relu()).mean(1)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Causal().eval()


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(SHAPE, generator=generator), torch.randint(0, 3, (8,), generator=generator))
        for _ in range(4)
    ]
    return Data(batches[0][0][:1], batches, batches, batches)


def test_a_causal_mask_is_no_broken_weight(model: nn.Module, data: Data, tmp_path: Path) -> None:
    check_finite(model)
    check_runs(model, data)
    found = find_groups(model, data.example)
    assert "hidden" in {group.name for group in found.groups}
    slim = cut(model, data.example, {"hidden": range(0, 12, 2)})
    assert slim.hidden.out_features == 6
    export(slim, data.example, tmp_path / "slim.onnx", opset=20)


def test_training_keeps_a_causal_mask(model: nn.Module, data: Data) -> None:
    future, weight = model.future.clone(), model.head.weight.clone()
    settings = RecoverSection(steps=12, learning_rate=0.05)
    for _, averaged in side_by_side([model], Causal().eval(), data, settings):
        assert torch.equal(averaged[0].future, future)
    assert bool(torch.isfinite(averaged[0](*data.example)).all())
    assert not torch.equal(averaged[0].head.weight, weight)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_statistics_are_held_to_what_weights_are(bad: float) -> None:
    for model, name in (
        (nn.BatchNorm1d(3), "running_mean"),
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "1.running_var"),
    ):
        check_finite(model)
        model.state_dict()[name][1] = bad
        with pytest.raises(WeightsError, match=f"{name} holds 1 NaN or infinite values of 3"):
            check_finite(model)


def test_nan_is_refused_in_every_buffer(model: nn.Module) -> None:
    model.future[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="future holds 1 NaN values of 36"):
        check_finite(model)
