"""Gates against a network in some channels do harm."""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.data import Data
from edgeprune.importance.gates import EVERY, STEPS, learned_gates
from edgeprune.importance.scores import keep_best
from edgeprune.pruning.groups import cut
from edgeprune.records import ChannelGroup

GROUPS = (ChannelGroup(name="0", width=4, outputs=("0",), inputs=("1",)),)


def opposed() -> nn.Module:
    """Hidden channels x0, x0, x1, x1 of which the second and the fourth count against the sum."""
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
        model[1].weight.copy_(torch.tensor([[1.0, -0.5, 1.0, -0.5]]))
    return model.eval()


def regression() -> Data:
    x = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
    batches = [(x[i : i + 32], x[i : i + 32].sum(1, keepdim=True)) for i in (0, 32, 64)]
    return Data(x[:1], None, batches, batches, loss=nn.functional.mse_loss)


def test_the_channels_that_serve_are_found_and_the_model_is_left_alone() -> None:
    """The target is x0 + x1: channels 0 and 2 give it, 1 and 3 together minus half of it."""
    model = opposed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = list(learned_gates(model, regression(), GROUPS, {"0": (1, 3)}))
    assert len(found) == STEPS // EVERY
    assert keep_best(found[-1]["0"], 2) == (0, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_same_seed_gives_the_same_gates() -> None:
    one, two = (
        list(learned_gates(opposed(), regression(), GROUPS, {"0": (0, 1)}))[-1] for _ in range(2)
    )
    assert torch.equal(one["0"], two["0"])


def test_what_is_not_cut_has_no_gates() -> None:
    assert list(learned_gates(opposed(), regression(), GROUPS, {"0": (0, 1, 2, 3)})) == []
    assert list(learned_gates(opposed(), regression(), GROUPS, {})) == []


def test_whole_bundles_are_chosen(build, groups_of) -> None:
    """A grouped convolution: from every step on, what is kept can be cut and wires as it ran."""
    model, inputs = build("grouped")
    groups = groups_of("grouped").groups
    x = torch.randn(40, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(0))
    batches = [(x[i : i + 20], torch.arange(20) % 10) for i in (0, 20)]
    data = Data(x[:1], None, batches, batches)
    kept = {g.name: tuple(sorted(c for b in g.bundles()[::2] for c in b)) for g in groups}
    changed = set()
    for gates in learned_gates(model, data, groups, kept):
        assert set(gates) == set(kept)
        best = {name: keep_best(gate, len(kept[name])) for name, gate in gates.items()}
        for group in groups:
            stay = set(best[group.name])
            assert all(stay.issuperset(b) or not stay & set(b) for b in group.bundles())
            if group.divisor > 1 and best[group.name] != kept[group.name]:
                changed.add(group.name)
    assert changed  # bundles change places as a whole
    assert torch.isfinite(cut(model, inputs, best)(x)).all()
