"""The channels that torch-pruning's own pruners keep."""

from __future__ import annotations

import pytest
import torch

from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.ranking import torch_pruning_keeps

RANKED = {
    "conv1": torch.arange(1.0, 17.0) / 8.5,
    "conv2": torch.tensor([0.1] * 12 + [1.9] * 12) + 1e-4 * torch.arange(24),
}


@pytest.mark.parametrize(
    ("share", "options", "widths"),
    [
        (0.5, {}, (8, 12)),
        (0.3, {"one_ranking": True}, (16, 12)),  # conv2's lower half is below all of conv1
        (0.3, {"one_ranking": True, "round_to": 8}, (16, 8)),
        (0.5, {"round_to": 16}, (16, 24)),  # both would lose every channel: left whole
        (0.25, {"round_to": 8}, (8, 16)),
        (0.5, {"isomorphic": True}, (8, 12)),  # conv1 feeds a convolution, conv2 a Linear
    ],
)
def test_torch_prunings_own_pruners(build, share, options, widths) -> None:
    model, inputs = build("plain")
    before = {n: p.clone() for n, p in model.state_dict().items()}
    kept = torch_pruning_keeps(model, inputs, RANKED, share, **options)
    assert (len(kept["conv1"]), len(kept["conv2"])) == widths
    assert kept["conv1"] == tuple(range(16 - widths[0], 16))
    assert kept["conv2"] == tuple(range(24 - widths[1], 24))
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert torch_pruning_keeps(model, inputs, RANKED, share, **options) == kept  # nothing shared


def test_torch_pruning_leaves_other_groups_alone(build) -> None:
    model, inputs = build("residual")
    groups = find_groups(model, inputs).groups
    scores = {"b1": torch.arange(24.0) + 1}
    assert "b1" in {group.name for group in groups}
    assert torch_pruning_keeps(model, inputs, scores, 0.5) == {"b1": tuple(range(12, 24))}
