from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeprune.pruning.groups import cut, find_groups
from edgeprune.records import PlannedGroup, WidthPlan
from edgeprune.stages.views import CELLS, collect, norms, weight_patterns


def planned(model: nn.Module, kept: dict[str, tuple[int, ...]]) -> WidthPlan:
    layers = dict(model.named_modules())
    width = {
        name: getattr(layers[name], "out_features", None)
        or getattr(layers[name], "hidden_size", None)
        or layers[name].out_channels
        for name in kept
    }
    groups = {
        name: PlannedGroup(before=width[name], after=len(k), kept=k, criterion="l2")
        for name, k in kept.items()
    }
    facts = {"budget": 1.0, "unit": "us", "predicted": 1.0, "predicted_error": 0.0}
    return WidthPlan(groups=groups, corrected=1.0, gap=0.0, loss=0.0, **facts)


def test_patterns_show_what_goes_and_what_is_left() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, -4]]))
    inputs = (torch.randn(1, 3),)
    groups, plan = find_groups(model, inputs), planned(model, {"0": (0, 3)})
    slim = cut(model, inputs, {"0": (0, 3)})
    first, second = weight_patterns(model, slim, plan, groups)
    assert (first.layer, first.dense_shape, first.slim_shape) == ("0", (4, 3), (2, 3))
    assert first.dense == ((10, 0, 0), (5, 0, 0), (0, 2, 0), (0, 0, 10))  # tenths of 4; 2.5 to even
    assert first.slim == ((10, 0, 0), (0, 0, 10))
    assert first.stays == ((True,) * 3, (False,) * 3, (False,) * 3, (True,) * 3)
    assert second.stays == ((True, False, False, True),) * 2


def test_a_flattened_layer_loses_all_entries_of_a_channel() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2)).eval()
    inputs = (torch.randn(1, 1, 2, 2),)
    groups, plan = find_groups(model, inputs), planned(model, {"0": (0, 2)})
    found = weight_patterns(model, cut(model, inputs, {"0": (0, 2)}), plan, groups)
    linear = next(pattern for pattern in found if pattern.layer == "2")
    assert linear.stays[0] == (True,) * 4 + (False,) * 4 + (True,) * 4


def test_wide_layers_are_shown_in_few_cells() -> None:
    model = nn.Sequential(nn.Linear(8, 200), nn.ReLU(), nn.Linear(200, 2)).eval()
    inputs = (torch.randn(1, 8),)
    groups, plan = find_groups(model, inputs), planned(model, {"0": tuple(range(100))})
    first, _ = weight_patterns(model, cut(model, inputs, {"0": tuple(range(100))}), plan, groups)
    assert len(first.dense) == CELLS
    assert first.dense_shape == (200, 8)
    assert [row[0] for row in first.stays] == [True] * 32 + [False] * 32


def test_norms_of_layers() -> None:
    conv, lstm = nn.Conv2d(2, 3, 3), nn.LSTM(5, 4)
    assert torch.equal(norms(conv), conv.weight.detach().flatten(2).norm(dim=2))
    gates = lstm.weight_ih_l0.detach()
    expected = sum(gates[4 * g : 4 * g + 4].square() for g in range(4)).sqrt()
    assert torch.allclose(norms(lstm), expected)
    assert norms(nn.Conv2d(4, 4, 3, groups=4)) is None
    assert norms(nn.BatchNorm2d(3)) is None


def test_scores_are_those_of_the_criterion_in_the_plan() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    inputs = (torch.randn(1, 3),)
    plan = planned(model, {"0": (0, 3)})
    scores = {"l2/0": torch.tensor([4.0, 1, 2, 3]), "taylor/0": torch.zeros(4)}
    slim = cut(model, inputs, {"0": (0, 3)})
    views = collect(model, slim, plan, find_groups(model, inputs), scores)
    (spread,) = views.spreads
    assert (spread.group, spread.criterion, spread.kept) == ("0", "l2", (0, 3))
    assert spread.scores == pytest.approx((4, 1, 2, 3))
    assert views.groups is not None
    assert not collect(model, slim, plan, find_groups(model, inputs), {}).spreads
