"""Each criterion on small networks in which it is known which channels matter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.importance.registry import CRITERIA
from edgeprune.importance.scores import keep_best, score_channels
from edgeprune.pruning.groups import find_groups, mask
from edgeprune.pruning.shrink import shrink
from edgeprune.records import PlannedGroup, WidthPlan
from edgeprune.sections import FusedSection


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Linear(5, 12), nn.LSTM(12, 9, batch_first=True)
        self.gru, self.head = nn.GRU(9, 9, batch_first=True), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(self.embed(x).relu())[0])[0][:, -1])


def half_square(output: Tensor, target: Tensor) -> Tensor:
    """Convex, with a gradient that does not vanish; second derivatives of ReLU networks are >= 0."""
    return output.square().sum(1).mean() / 2


@pytest.fixture(scope="module")
def planted(build):  # type: ignore[no-untyped-def]
    """Name -> (network of which only a third of the channels does anything, groups, channels, data)."""
    made: dict[str, tuple] = {}

    def get(name: str):  # type: ignore[no-untyped-def]
        if name not in made:
            torch.manual_seed(3)
            model, inputs = (
                (Recurrent().eval(), (torch.randn(1, 6, 5),))
                if name == "recurrent"
                else build(name)
            )
            groups = find_groups(model, inputs).groups
            model = copy.deepcopy(model)
            for name_, parameter in model.named_parameters():  # so that no ReLU is dead
                if name_.endswith("bias"):
                    nn.init.constant_(parameter, 0.6)
            kept = {g.name: tuple(range(1, g.width, 3)) for g in groups}
            x = torch.randn(48, *inputs[0].shape[1:])
            data = Data(inputs[0], None, [(x, torch.zeros(48))], [], loss=half_square)
            made[name] = mask(model, inputs, kept), groups, kept, data
        return made[name]

    return get


NETWORKS = ("plain", "conv1d", "separable", "recurrent")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_channels_that_matter_are_kept_and_the_cut_model_equals_the_masked_one(
    planted,
    criterion: str,
    network: str,  # type: ignore[no-untyped-def]
) -> None:
    if criterion == "bn_scale" and network in ("conv1d", "recurrent"):
        return  # not every group has a BatchNorm: test_criteria.py tests the refusal
    if criterion in ("output_error", "refit_error") and network == "recurrent":
        return  # the LSTM is no consumer they can read: test_output_error.py tests it
    model, groups, planted_channels, data = planted(network)
    scores = score_channels(model, data, groups, criterion, samples=48)
    assert {name: tuple(s.shape) for name, s in scores.items()} == {
        g.name: (g.width,) for g in groups
    }
    assert all(bool(torch.isfinite(s).all()) for s in scores.values())
    if criterion in ("grasp", "hessian"):  # these have a sign; what does nothing scores exactly 0
        scores = {name: score.abs() for name, score in scores.items()}
    kept = {g.name: keep_best(scores[g.name], len(planted_channels[g.name])) for g in groups}
    if criterion == "random":
        assert kept != planted_channels
        return
    assert kept == planted_channels
    slim = shrink(
        model, data.example, _plan(groups, kept), [(data.calibration[0][0][:8],)]
    )  # proves it
    with torch.inference_mode():
        x = data.calibration[0][0]
        torch.testing.assert_close(slim(x), model(x), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("fusion", ["simple", "adaptive", "learned"])
@pytest.mark.parametrize(
    "families", [("base",), ("activation", "gradient"), ("cooperation", "base")]
)
def test_fusions_and_switches_keep_them_too(planted, fusion: str, families: tuple) -> None:  # type: ignore[no-untyped-def]
    model, groups, planted_channels, data = planted("plain")
    if fusion == "learned":  # a loss that every removal makes larger
        x = data.calibration[0][0]
        with torch.no_grad():
            target = model(x)
        data = Data(x[:1], None, [(x, target)], [], loss=nn.functional.mse_loss)
    section = FusedSection(fusion=fusion, families=families, batches=2, removals=8)
    scores = score_channels(model, data, groups, "fused", samples=48, fused=section)
    for group in groups:
        assert (
            keep_best(scores[group.name], len(planted_channels[group.name]))
            == (planted_channels[group.name])
        )


def _plan(groups, kept) -> WidthPlan:  # type: ignore[no-untyped-def]
    planned = {
        g.name: PlannedGroup(
            before=g.width, after=len(kept[g.name]), kept=kept[g.name], criterion="l2"
        )
        for g in groups
    }
    return WidthPlan(
        groups=planned, budget=1.0, unit="us", predicted=1.0, predicted_error=0.0, corrected=1.0,
        gap=0.0, loss=0.0,
    )  # fmt: skip
