from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.transforms.collapse import bridge, collapse, error_of, find_chains, fit

Case = tuple[nn.Module, Tensor]


class Functional(nn.Module):
    """Linear layers with functions between them, and a branch that uses an inner value."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 12), nn.Linear(12, 5)
        self.three, self.four = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(functional.dropout(functional.relu(self.one(x)), training=self.training))
        inner = torch.tanh(self.three(x))
        return self.four(inner) + inner[:, :3]


class Branching(nn.Module):
    """Cannot be traced: which way it goes depends on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return -y if float(x.sum()) > 1e9 else y


class Shared(nn.Module):
    """One ReLU instance in two places, and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.a, self.b = nn.ReLU(), nn.Linear(4, 6), nn.Linear(6, 4)
        self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.relu(self.c(self.b(self.relu(self.a(x))))))
        return self.d(self.relu(x))


def test_chains_are_found_in_traced_graphs() -> None:
    chains = find_chains(Functional().eval())
    assert [(c.first, c.between, c.last, c.swappable) for c in chains] == [
        ("one", ("relu", "dropout"), "two", False),
        ("two", (), "three", True),
    ]  # what three gives is used twice


def test_chains_are_found_in_sequences_that_cannot_be_traced() -> None:
    (chain,) = find_chains(Branching().eval())
    assert (chain.first, chain.last) == ("body.0", "body.3")
    assert chain.between == ("body.1", "body.2")


def test_a_layer_that_runs_twice_is_left_alone() -> None:
    (chain,) = find_chains(Shared().eval())
    assert (chain.first, chain.last, chain.swappable) == ("a", "b", False)


def test_other_layers_end_a_chain() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Softmax(-1), nn.Linear(8, 2))
    assert find_chains(model) == ()


def test_a_linear_chain_is_found_exactly() -> None:
    """Worked out by hand: 2 (3 x + 1) + 5 = 6 x + 7."""
    first, last = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for layer, weight, bias in ((first, 3.0, 1.0), (last, 2.0, 5.0)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    model = nn.Sequential(first, nn.Identity(), last).eval()
    batches = [(torch.arange(-4.0, 4.0)[:, None],)]
    (chain,) = find_chains(model)
    layer = fit(model, chain, batches, 0.0)
    assert layer.weight.item() == pytest.approx(6.0, abs=1e-4)
    assert layer.bias.item() == pytest.approx(7.0, abs=1e-4)
    assert error_of(model, chain, layer, batches) < 1e-9


def test_the_fit_of_a_relu_is_the_line_of_least_squares() -> None:
    """relu on -2, -1, 0, 1, 2: slope sum(x y) / sum(x^2) = 5 / 10, mean 3 / 5; residual 0.7 of 3.2."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    x = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
    (chain,) = find_chains(model)
    layer = fit(model, chain, [(x,)], 0.0)
    assert (layer.weight.item(), layer.bias.item()) == pytest.approx((0.5, 0.6), abs=1e-4)
    residual = sum((max(v, 0) - 0.5 * v - 0.6) ** 2 for v in (-2, -1, 0, 1, 2))
    assert error_of(model, chain, layer, [(x,)]) == pytest.approx(residual / 3.2, rel=1e-4)


def test_ridge_shrinks_the_map() -> None:
    """Slope sum(x y) / (sum(x^2) + ridge * mean(x^2 summed)) = 10 / (10 + 1 * 10)."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)).eval()
    with torch.no_grad():
        for layer in (model[0], model[1]):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    x = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
    layer = fit(model, find_chains(model)[0], [(x,)], 1.0)
    assert layer.weight.item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("model", "x"),
    [(Functional(), torch.randn(64, 6)), (Branching(), torch.randn(64, 4)), (Shared(), torch.randn(64, 4))],
    ids=["functions", "sequence", "shared activation"],
)  # fmt: skip
def test_the_collapsed_model_computes_what_layer_and_rest_compute(
    model: nn.Module, x: Tensor
) -> None:
    model.eval()
    chain = find_chains(model)[0]
    layer = fit(model, chain, [(x,)], 1e-6)
    slim = collapse(model, chain, layer)
    assert type(slim.get_submodule(chain.first)) is nn.Linear
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())
    caught: list[Tensor] = []
    replaced = model.get_submodule(chain.last).register_forward_hook(
        lambda _, args, output: caught.append(layer(chain_input[0])) or caught[-1]  # type: ignore[func-returns-value]
    )
    chain_input: list[Tensor] = []
    seen = model.get_submodule(chain.first).register_forward_pre_hook(
        lambda _, args: chain_input.append(args[0])
    )
    with torch.no_grad():
        wanted = model(x)
        replaced.remove()
        seen.remove()
        assert torch.allclose(slim(x), wanted, atol=1e-6)
        assert not torch.allclose(model(x), wanted, atol=1e-3)  # the original is as it was


def test_the_bridge_passes_a_linear_map_through_a_sigmoid() -> None:
    weight, bias = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([0.25, -1.0])
    first, last = bridge(weight, bias, 4, 0.01)
    assert first.weight.tolist()[0] == pytest.approx([0.01, 0.0])
    assert last.weight[0].tolist() == pytest.approx([400.0, -800.0, 0.0, 0.0])
    assert last.bias.tolist() == pytest.approx([0.25 + 200.0, -1.0 - 700.0])
    x = torch.tensor([[1.0, 0.0], [-0.5, 2.0]])
    with torch.no_grad():
        got = last(torch.sigmoid(first(x)))
    assert torch.allclose(got, x @ weight.T + bias, atol=2e-3)
    filled = sum(int((t != 0).sum()) for t in (first.weight, first.bias, last.weight, last.bias))
    assert filled <= 2 + 2 * 3


def test_the_bridge_needs_room_and_a_positive_eps() -> None:
    with pytest.raises(ValueError, match="1 hidden units for 2 inputs"):
        bridge(torch.zeros(1, 2), torch.zeros(1), 1, 0.1)
    with pytest.raises(ValueError, match="eps 0"):
        bridge(torch.zeros(1, 2), torch.zeros(1), 2, 0.0)
