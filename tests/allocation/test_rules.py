"""How scores of several groups are made comparable before they are ranked together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from edgeprune.allocation.rules import isomorphic, one_ranking

SCORES = {
    "conv1": torch.arange(1.0, 17.0),
    "conv2": torch.tensor([0.1] * 12 + [1.9] * 12) + 1e-4 * torch.arange(24),
}


@pytest.mark.parametrize(
    ("normalise", "share", "widths"),
    [
        ("mean", 0.5, (8, 12)),  # over 8.5 and over 1: 12 of conv2 are least, then 8 of conv1
        ("none", 0.5, (15, 5)),  # all but one of conv1 are above 1.9
        ("sum", 0.75, (6, 4)),  # over 136 and over 24: 1.9 lies between 10 and 11 of conv1
    ],
)
def test_one_ranking_is_of_normalised_scores(build, normalise, share, widths) -> None:
    model, inputs = build("plain")
    task = SimpleNamespace(
        model=model,
        data=SimpleNamespace(example=inputs),
        spanning=SCORES,
        normalise=normalise,
        round_to=None,
    )
    kept = one_ranking(task, share)
    assert kept["conv1"] == tuple(range(16 - widths[0], 16))
    assert kept["conv2"] == tuple(range(24 - widths[1], 24))
    alone = isomorphic(task, 0.5)  # each is the only one of its structure
    assert (len(alone["conv1"]), len(alone["conv2"])) == (8, 12)
