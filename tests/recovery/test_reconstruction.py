"""Least-squares reconstruction on networks whose right answer is known."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.pruning.blocks import Removed
from edgeprune.pruning.groups import cut
from edgeprune.recovery.batchnorm import recalibrate
from edgeprune.recovery.finetuning import recover
from edgeprune.recovery.positions import by_position, count, patches
from edgeprune.recovery.reconstruction import reconstruct
from edgeprune.sections import RecoverSection


def unlabelled(x: Tensor) -> Data:
    return Data(x[:1], None, list(zip(x.split(50), [torch.empty(0)] * 99, strict=False)), [])


def test_a_copied_channel_is_taken_over_by_hand() -> None:
    # hidden 2 = 2 * hidden 1: without channel 2 the consumer must read channel 1 with w1 + 2 * w2
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
        model[0].bias.copy_(torch.tensor([0.1, 0.2, 0.4]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, -1.0]]))
        model[2].bias.copy_(torch.tensor([0.5, -0.5]))
    kept = {"0": (0, 1)}
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    slim = cut(model, (x[:1],), kept)
    before = {name: value.clone() for name, value in slim.state_dict().items()}
    found = reconstruct(slim, model, unlabelled(x), kept, ridge=1e-9)
    torch.testing.assert_close(
        found.model[2].weight, torch.tensor([[1.0, 8.0], [4.0, 3.0]]), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(found.model[2].bias, model[2].bias, rtol=1e-3, atol=1e-3)
    (refit,) = found.refitted
    assert refit.layer == "2"
    assert refit.before > 0.05
    assert refit.after < 1e-6
    assert not found.left_alone
    assert all(torch.equal(before[name], value) for name, value in slim.state_dict().items())


def test_a_constant_channel_moves_into_the_bias_or_the_batchnorm() -> None:
    # channel 1 is always 3: what it gave the consumer is a constant
    for normalised in (False, True):
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 3, padding=0, bias=not normalised)]
        model = nn.Sequential(*layers, *([nn.BatchNorm2d(4)] if normalised else [])).eval()
        with torch.no_grad():
            model[0].weight[1], model[0].bias[1] = 0.0, 3.0
        x = torch.randn(100, 1, 5, 5)
        kept = {"0": (0,)}
        slim = cut(model, (x[:1],), kept)
        found = reconstruct(slim, model, unlabelled(x), kept, ridge=1e-9)
        with torch.inference_mode():
            assert float((slim(x) - model(x)).abs().max()) > 0.1
            torch.testing.assert_close(found.model(x), model(x), rtol=1e-3, atol=1e-3)
        shift = model[2].weight[:, 1].sum((1, 2)) * 3.0
        if normalised:
            torch.testing.assert_close(
                found.model[3].running_mean, -shift.detach(), rtol=1e-3, atol=1e-3
            )
        else:
            torch.testing.assert_close(
                found.model[2].bias, model[2].bias + shift, rtol=1e-3, atol=1e-3
            )


def test_recover_reconstructs_first_unless_told_not_to(build, groups_of) -> None:  # type: ignore[no-untyped-def]
    model, inputs = build("plain")
    torch.manual_seed(6)
    x = torch.randn(200, *inputs[0].shape[1:])
    with torch.no_grad():
        labels = model(x).argmax(1)
    data = Data(x[:1], None, [(x, labels)], [(x, labels)])
    kept = {g.name: tuple(range(0, g.width, 2)) for g in groups_of("plain").groups}
    slim = cut(model, inputs, kept)
    left_out = RecoverSection(steps=0, reconstruct=False)
    plain = recover(slim, model, data, left_out, seed=0, kept=kept)
    found = recover(slim, model, data, RecoverSection(steps=0), seed=0, kept=kept)
    assert plain.reconstruction is None
    assert [r.layer for r in found.reconstruction.refitted] == ["conv2", "head"]
    assert found.best > plain.best + 0.1
    uncut = recover(slim, model, data, RecoverSection(steps=0), seed=0)
    assert uncut.reconstruction is None, "nothing is known to be cut"


@pytest.mark.parametrize("name", ["plain", "residual", "concat", "conv1d", "flattened", "mlp"])
def test_outputs_come_closer_to_the_dense_ones(build, groups_of, name: str) -> None:  # type: ignore[no-untyped-def]
    model, inputs = build(name)
    kept = {g.name: tuple(range(0, g.width, 2)) for g in groups_of(name).groups}
    torch.manual_seed(5)
    x, held = torch.randn(200, *inputs[0].shape[1:]), torch.randn(100, *inputs[0].shape[1:])
    slim = cut(model, inputs, kept)
    found = reconstruct(slim, model, unlabelled(x), kept)
    consumers = {layer for g in groups_of(name).groups for layer in g.inputs}
    assert consumers <= {r.layer for r in found.refitted}
    assert all(r.after <= r.before and math.isfinite(r.before) for r in found.refitted)
    recalibrate(slim, [(x,)])
    with torch.inference_mode():
        wanted = model(held)
        errors = [float((m(held) - wanted).square().mean()) for m in (slim, found.model)]
    assert errors[1] < 0.7 * errors[0]


def test_what_cannot_be_refitted_is_reported_and_left_alone() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm = nn.Linear(5, 8), nn.LSTM(8, 6, batch_first=True)
            self.head = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(self.embed(x).relu())[0])

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(60, 7, 5)
    kept = {"embed": (0, 1, 2, 3), "lstm": (0, 2, 4)}
    slim = cut(model, (x[:1],), kept)
    found = reconstruct(slim, model, unlabelled(x), kept)
    assert [r.layer for r in found.refitted] == ["head"]
    assert found.left_alone == (("lstm", "LSTM is not re-fitted"),)
    assert torch.equal(found.model.lstm.weight_ih_l0, slim.lstm.weight_ih_l0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2), bias=False), (2, 3, 9, 8)),
        (nn.Conv1d(3, 4, 3, 2, 1, bias=False), (2, 3, 11)),
        (nn.Linear(3, 4, bias=False), (2, 5, 3)),
    ],
)
def test_patches_times_weights_are_the_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    output = layer(x)
    rows = by_position(output, layer)
    product = patches(layer, x) @ layer.weight.flatten(1).T
    torch.testing.assert_close(product, rows.reshape(-1, 4), rtol=1e-4, atol=1e-5)
    assert count(output, layer) == len(rows)
    chosen = torch.tensor([len(rows) - 1, 0, len(rows) // 2])
    torch.testing.assert_close(patches(layer, x, chosen), patches(layer, x)[chosen])
    torch.testing.assert_close(by_position(output, layer, [3, 1], chosen), rows[chosen][:, [3, 1]])


def test_patches_are_those_that_torch_unfolds() -> None:
    layer = nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2))
    x = torch.randn(2, 3, 9, 8).contiguous(memory_format=torch.channels_last)
    unfolded = nn.functional.unfold(x, (3, 2), (1, 2), (1, 0), (2, 1))
    assert torch.equal(patches(layer, x), unfolded.transpose(1, 2).flatten(0, 1))


def test_how_much_of_the_dense_model_is_held_changes_nothing(
    build, groups_of, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """Its outputs are kept from one pass where they fit, from one pass a layer where not."""
    model, inputs = build("residual")
    kept = {g.name: tuple(range(0, g.width, 2)) for g in groups_of("residual").groups}
    x = torch.randn(200, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(5))
    slim = cut(model, inputs, kept)
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))

    def run() -> tuple[dict[str, Tensor], int]:
        passes.clear()
        return reconstruct(slim, model, unlabelled(x), kept).model.state_dict(), len(passes)

    together, few = run()
    monkeypatch.setattr("edgeprune.recovery.reconstruction.HELD", 0)
    apart, many = run()
    assert all(torch.equal(value, apart[name]) for name, value in together.items())
    assert few <= 8 < many, "four batches, and single passes to see the order"


def test_layers_behind_a_branch_that_is_gone_make_up_for_it() -> None:
    """The second layer lost no channel, but what it receives lacks what the branch added."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch = nn.Linear(4, 6), nn.Linear(6, 6)
            self.second, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(self.second(x + self.branch(x)).relu())

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(300, 4)
    slim = copy.deepcopy(model)
    slim.branch = Removed()
    with torch.inference_mode():
        before = float((slim(x) - model(x)).square().mean())
        found = reconstruct(slim, model, unlabelled(x), {}, ridge=1e-9)
        after = found.model(x)
    assert [r.layer for r in found.refitted] == ["second", "head"]
    assert before > 0.01
    torch.testing.assert_close(after, model(x), rtol=1e-3, atol=1e-3)


def test_an_uncut_model_is_left_as_it_is(build) -> None:  # type: ignore[no-untyped-def]
    model, inputs = build("plain")
    x = torch.randn(60, *inputs[0].shape[1:])
    found = reconstruct(model, model, unlabelled(x), {})
    assert not found.refitted
    assert not found.left_alone
