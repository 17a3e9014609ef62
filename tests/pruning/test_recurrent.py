"""Recurrent layers: hidden units are cut physically, and the cut model equals the masked one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.pruning import recurrent
from edgeprune.pruning.groups import cut, find_groups, mask


class Sequence(nn.Module):
    """linear - recurrent (two layers) - recurrent - linear."""

    def __init__(self, kind: type[nn.RNNBase], *, batch_first: bool, final_state: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.one = kind(12, 8, 2, batch_first=batch_first)
        self.two = kind(8, 6, 1, batch_first=batch_first)
        self.head, self.final_state = nn.Linear(6, 4), final_state

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.one(self.embed(x).relu())
        x, state = self.two(x)
        if self.final_state:
            x = (state[0] if isinstance(state, tuple) else state)[-1]
        return self.head(x)


@pytest.mark.parametrize("kind", recurrent.RECURRENT)
@pytest.mark.parametrize(("batch_first", "final_state"), [(True, False), (False, True)])
def test_hidden_units_are_cut_and_the_output_is_that_of_the_masked_model(
    kind: type[nn.RNNBase], batch_first: bool, final_state: bool
) -> None:
    torch.manual_seed(0)
    model = Sequence(kind, batch_first=batch_first, final_state=final_state).eval()
    inputs = (torch.randn(3, 7, 5),)
    groups = find_groups(model, inputs).groups
    assert {g.name: (g.width, g.inputs) for g in groups} == {
        "embed": (12, ("one",)), "one": (8, ("two",)), "two": (6, ("head",)),
    }  # fmt: skip
    kept = {g.name: tuple(range(1, g.width, 2)) for g in groups}
    slim, masked = cut(model, inputs, kept), mask(model, inputs, kept)
    assert (slim.one.input_size, slim.one.hidden_size, slim.two.hidden_size) == (6, 4, 3)
    assert slim.one.weight_hh_l1.shape[1] == 4
    with torch.inference_mode():
        torch.testing.assert_close(slim(*inputs), masked(*inputs))
        assert float((slim(*inputs) - model(*inputs)).abs().max()) > 1e-3


def test_what_cannot_be_cut_is_left_alone_with_the_reason() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(5, 8, batch_first=True, bidirectional=True)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])

    found = find_groups(Both().eval(), (torch.randn(2, 7, 5),))
    assert not found.groups
    assert "bidirectional" in {s.name: s.reason for s in found.skipped}["lstm"]


def test_tracing_leaves_the_layers_as_they_were() -> None:
    layer = nn.GRU(3, 4)
    with recurrent.as_single_nodes(layer):
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)


def test_places_of_a_hidden_unit_by_hand() -> None:
    # LSTM 2 -> 3: unit 1 has rows 1, 4, 7, 10 of weight_ih and weight_hh, and column 1 of weight_hh
    layer = nn.LSTM(2, 3)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.arange(24.0).view(12, 2))
        layer.weight_hh_l0.copy_(torch.arange(36.0).view(12, 3))
    rows = recurrent.rows(layer, "out", dict(layer.named_parameters()).get)
    ih = [2, 3, 8, 9, 14, 15, 20, 21]
    hh_rows = [3, 4, 5, 12, 13, 14, 21, 22, 23, 30, 31, 32]
    hh_column = [1 + 3 * i for i in range(12)]
    assert sorted(rows[1].tolist()) == sorted(map(float, ih + hh_rows + hh_column))
