"""Channels that can only go in bundles: grouped convolutions and heads of attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.cost.staircase import grid
from edgeprune.cost.table import build_table
from edgeprune.export.segments import read_graph
from edgeprune.importance.scores import bundled, keep_best
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.remainder import Remainder
from edgeprune.pruning.shrink import shrink
from edgeprune.records import ChannelGroup


class Attention(nn.Module):
    """Self-attention of 4 heads of 6 channels over 5 tokens; `fixed` keeps the size of heads."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.heads, self.size, self.fixed = 4, 6, fixed
        self.q, self.k, self.v = (nn.Linear(12, 24) for _ in range(3))
        self.out, self.head = nn.Linear(24, 12), nn.Linear(12, 3)

    def _split(self, x: Tensor) -> Tensor:
        shape = (-1, self.size) if self.fixed else (self.heads, -1)
        return x.unflatten(-1, shape).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(layer(x)) for layer in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-1, -2) / 2.0).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return self.head(self.out(mixed).mean(1))


def test_grouped_convolutions_are_cut_in_multiples_of_their_groups(groups_of) -> None:
    groups = {g.name: g for g in groups_of("grouped").groups}
    assert (groups["0"].divisor, groups["2"].divisor, groups["4"].divisor) == (4, 4, 1)
    assert groups["2"].bundles()[0] == (0, 4, 8, 12)


@pytest.mark.parametrize("fixed", [False, True])
def test_attention_is_cut_by_places_in_its_heads_or_by_heads(fixed: bool, make_plan) -> None:
    torch.manual_seed(0)
    model, inputs = Attention(fixed=fixed).eval(), (torch.randn(1, 5, 12),)
    groups = find_groups(model, inputs)
    tied = [g for g in groups.groups if g.divisor > 1]
    if not tied:
        pytest.fail(f"no group of attention: {groups.skipped}")
    plan = make_plan(groups, {g.name: g.width // 2 for g in tied})
    slim = shrink(model, inputs, plan, [(torch.randn(3, 5, 12),)])  # proves it
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())


def test_best_channels_are_whole_bundles() -> None:
    random = np.random.default_rng(0)
    for contiguous in (False, True):
        group = ChannelGroup(
            name="g", width=24, outputs=("g",), inputs=(), divisor=4, contiguous=contiguous
        )
        scores = bundled(torch.tensor(random.integers(0, 3, 24).astype(np.float32)), group)
        for width in range(4, 25, 4):
            kept = set(keep_best(scores, width))
            assert all(kept.issuperset(b) or not kept & set(b) for b in group.bundles())


def test_offered_widths_are_multiples(exported, groups_of, simulated) -> None:
    path, groups = exported("grouped"), groups_of("grouped").groups
    device = simulated(step=2)
    table = build_table(device, read_graph(path), groups, profile_model(device, path, name="g"))
    assert table.widths["2"] == (8, 12, 16)
    assert all(width % 4 == 0 for width in table.widths["0"])
    assert grid(192, divisor=3) == tuple(range(12, 193, 12))


def test_what_a_step_left_of_bundled_scores_ranks_before_what_is_gone(groups_of) -> None:
    groups = groups_of("grouped")
    group = next(group for group in groups.groups if group.divisor == 4)
    gone = group.bundles()[1]
    kept = tuple(k for k in range(group.width) if k not in gone)
    left = Remainder(torch.nn.Identity(), {group.name: kept})
    narrow = left.groups(groups)[group.name]
    # bundles of equal mean are told apart by the last bits of float64
    scores = bundled(torch.ones(len(kept)), narrow)
    whole = left.scores({group.name: scores}, groups)[group.name]
    assert torch.equal(whole[list(kept)], scores)
    assert float(whole[list(gone)].max()) < float(scores.min())
    assert len(set(keep_best(whole, 8)) & set(gone)) == 0
