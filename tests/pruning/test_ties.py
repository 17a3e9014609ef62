"""Layers that share parameters share them still after a cut, and through recovery."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.pruning.shrink import rebuild, shrink
from edgeprune.pruning.ties import retie, separate, ties
from edgeprune.recovery.finetuning import recover
from edgeprune.recovery.reconstruction import reconstruct
from edgeprune.sections import RecoverSection

TOKENS, WIDTH = 20, 16


class Tied(nn.Module):
    """A decoder that is the embedding read the other way: [batch, n] of ids -> [batch, TOKENS]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.decoder = nn.Linear(WIDTH, TOKENS, bias=False)
        self.decoder.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.decoder((x + self.mix(x).relu()).mean(1))


@pytest.fixture
def dense() -> Tied:
    torch.manual_seed(0)
    return Tied().eval()


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randint(0, TOKENS, (16, 6), generator=generator),
         torch.randint(0, TOKENS, (16,), generator=generator))
        for _ in range(4)
    ]  # fmt: skip
    return Data(batches[0][0][:1], batches, batches, batches)


KEPT = {"mix": tuple(range(0, WIDTH, 2))}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_table_that_is_cut_on_both_sides_is_counted_once(dense: Tied, data: Data) -> None:
    assert [group.name for group in find_groups(dense, data.example).groups] == ["mix"]
    slim = cut(dense, data.example, KEPT)
    assert slim.decoder.weight is slim.embed.weight
    assert tuple(slim.embed.weight.shape) == (TOKENS, WIDTH // 2)
    assert count(slim) == TOKENS * 8 + 8 * 8 + 8
    assert count(dense) == TOKENS * 16 + 16 * 16 + 16
    assert dense.decoder.weight is dense.embed.weight


def test_a_step_after_a_step_keeps_them_together(dense: Tied, data: Data) -> None:
    once = cut(dense, data.example, KEPT)
    twice = cut(once, data.example, {"mix": range(4)})
    assert twice.decoder.weight is twice.embed.weight
    assert count(twice) == TOKENS * 4 + 4 * 4 + 4


def test_shrunk_and_rebuilt_models_are_tied(dense: Tied, data: Data, make_plan) -> None:
    plan = make_plan(find_groups(dense, data.example), {"mix": 8})
    slim = shrink(dense, data.example, plan)
    assert slim.decoder.weight is slim.embed.weight
    state = {name: value + 0.5 for name, value in slim.state_dict().items()}
    built = rebuild(dense, data.example, plan, state)
    assert built.decoder.weight is built.embed.weight
    assert torch.equal(built.embed.weight, state["embed.weight"])


def test_states_that_differ_are_not_made_one(dense: Tied, data: Data, make_plan) -> None:
    """Of a run that trained the two apart, each keeps what it learnt."""
    plan = make_plan(find_groups(dense, data.example), {"mix": 8})
    state = {n: v.clone() for n, v in shrink(dense, data.example, plan).state_dict().items()}
    state["decoder.weight"] += 1.0
    built = rebuild(dense, data.example, plan, state)
    for name, value in built.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert built.decoder.weight is not built.embed.weight


def test_layers_that_lose_other_channels_part() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[2].weight = model[0].weight
    slim = nn.Sequential(nn.Linear(6, 4), nn.Linear(6, 6), nn.Linear(6, 6))
    slim[1].weight = nn.Parameter(model[1].weight.detach().clone())
    slim[2].weight = nn.Parameter(model[1].weight.detach().clone())
    retie(model, slim)
    assert slim[0].weight is not slim[1].weight
    assert slim[1].weight is slim[2].weight
    assert ties(slim) == [("1.weight", "2.weight")]
    separate(slim)
    assert ties(slim) == []
    assert torch.equal(slim[1].weight, slim[2].weight)


def test_a_layer_with_two_names_is_one_layer() -> None:
    layer = nn.Linear(3, 3)
    assert ties(nn.ModuleDict({"a": layer, "b": layer})) == []


def test_recovery_trains_them_as_one(dense: Tied, data: Data) -> None:
    slim = cut(dense, data.example, KEPT)
    rebuilt = reconstruct(slim, dense, data, KEPT)
    assert ("decoder", "it shares its weights with another layer") in rebuilt.left_alone
    assert torch.equal(rebuilt.model.embed.weight, slim.embed.weight)
    settings = RecoverSection(steps=8, learning_rate=0.05)
    found = recover(slim, dense, data, settings, seed=0, kept=KEPT).model
    assert found.decoder.weight is found.embed.weight
    assert "mix" in {refit.layer for refit in rebuilt.refitted}
