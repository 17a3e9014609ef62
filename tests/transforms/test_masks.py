from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from edgeprune.errors import UnsupportedModelError
from edgeprune.transforms import masks
from edgeprune.transforms.zeros import remove_zero_channels, replay

Inputs = tuple[Tensor, ...]
Build = Callable[[str], tuple[nn.Module, Inputs]]


def _zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())


def test_masks_become_permanent_and_the_model_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    prune.l1_unstructured(model[0], "weight", 5)
    prune.random_unstructured(model[2], "bias", 1)
    x = torch.randn(5, 4)
    wanted = model(x)  # with a history of gradients, which could not be copied
    assert masks.carried(model) == ("0.weight", "2.bias")
    plain = masks.permanent(model)
    assert masks.carried(plain) == ()
    assert masks.carried(model) == ("0.weight", "2.bias")
    assert torch.equal(plain(x), wanted)
    assert _zeros(plain[0].weight) == 5
    assert set(plain.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize(("kind", "zeros"), [("l1", (6, 4)), ("random", (6, 4)), ("global", None)])
def test_unstructured_masks(kind: str, zeros: tuple[int, int] | None) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(4, 2))
    assert masks.put_on(model, kind, 0.5, seed=3) == ("0.weight", "2.weight")
    plain = masks.permanent(model)
    found = (_zeros(plain[0].weight), _zeros(plain[2].weight))
    assert sum(found) == 10
    if zeros:
        assert found == zeros
    if kind == "global":
        weights = torch.cat([plain[0].weight.flatten(), plain[2].weight.flatten()]).abs()
        originals = torch.cat(
            [model[0].weight_orig.flatten(), model[2].weight_orig.flatten()]
        ).abs()
        assert weights[weights > 0].min() > originals[weights == 0].max()


def test_random_masks_follow_the_seed_and_leave_the_generator_alone() -> None:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    state = torch.get_rng_state()
    for layer in (first, second):
        masks.put_on(nn.Sequential(layer), "random", 0.5, seed=11)
    assert torch.equal(first.weight_mask, second.weight_mask)
    assert torch.equal(torch.get_rng_state(), state)


def test_kept_layers_are_not_masked_and_nothing_to_mask_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert masks.put_on(model, "l1", 0.5, seed=0, keep=("0",)) == ("2.weight",)
    with pytest.raises(UnsupportedModelError, match="no convolution or linear layer"):
        masks.put_on(nn.Sequential(nn.ReLU()), "l1", 0.5, seed=0)


def test_zeros_are_held_through_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    masks.put_on(model, "l1", 0.5, seed=0, keep=("2",))
    model = masks.permanent(model)
    before = model[0].weight.detach().clone()
    masks.hold_zeros(model, ("0.weight",))
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    masks.release(model)
    after = model[0].weight
    assert isinstance(after, nn.Parameter)
    assert torch.equal(after == 0, before == 0)
    assert not torch.allclose(after[before != 0], before[before != 0], atol=1e-4)
    assert set(model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_layers_that_left_with_a_branch_hold_no_zeros() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Identity())  # as a removed branch leaves a layer
    with torch.no_grad():
        model[0].weight[0] = 0.0
    masks.hold_zeros(model, ("0.weight", "1.weight"))
    with torch.no_grad():
        model[0].parametrizations.weight.original.add_(1.0)
    assert _zeros(model[0].weight) == 3
    assert set(masks.release(model).state_dict()) == {"0.weight", "0.bias"}


def test_channel_masks_are_those_of_torch_and_leave_physically() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    inputs = (torch.randn(4, 6),)
    masked, names = masks.mask_channels(model, inputs, 0.25)
    reference = copy.deepcopy(model[0])
    prune.ln_structured(reference, "weight", 0.25, n=2, dim=0)
    assert torch.equal(masked[0].weight == 0, reference.weight == 0)
    assert names == ("0.weight",)
    found = remove_zero_channels(masked, inputs, [inputs])
    assert found.model[0].out_features == 6
    assert torch.allclose(found.model(*inputs), masked(*inputs), atol=1e-6)
    assert found.removed[0].folded == 0


@pytest.mark.parametrize("name", ["plain", "residual", "concat", "separable", "flattened"])
def test_coupled_layers_lose_the_same_channels(build: Build, name: str) -> None:
    model, inputs = build(name)
    masked, _ = masks.mask_channels(model, inputs, 0.5)
    found = remove_zero_channels(masked, inputs, [inputs])
    assert found.removed
    assert found.left == ()
    assert all(len(one.kept) == one.before - round(0.5 * one.before) for one in found.removed)
    with torch.inference_mode():
        assert torch.allclose(found.model(*inputs), masked(*inputs), atol=1e-4)
    again = replay(masked, inputs, found.removed)
    again.load_state_dict(found.model.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(*inputs), found.model(*inputs))


@pytest.mark.parametrize("amount", [0.3, 0.6, 0.9])
def test_channels_that_go_in_bundles_are_masked_and_removed_in_bundles(
    build: Build, amount: float
) -> None:
    model, inputs = build("grouped")
    torch.manual_seed(3)
    samples = [(torch.randn(4, *inputs[0].shape[1:]),)]
    masked, _ = masks.mask_channels(model, inputs, amount)
    smaller = remove_zero_channels(masked, inputs, samples)
    before, after = masked(*samples[0]), smaller.model(*samples[0])
    assert torch.allclose(before, after, atol=1e-5)
    found = {one.group: len(one.kept) for one in smaller.removed}
    assert found["0"] % 4 == 0  # feeds a convolution of four groups
    assert 8 <= found["0"] <= max(8, 16 * (1 - amount) + 4)


def test_zero_channels_that_are_no_whole_bundle_stay_and_say_why(build: Build) -> None:
    model, inputs = build("grouped")
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in masked[0].parameters():
            parameter[[0, 4, 8, 12, 1]] = 0.0  # one bundle, and a channel of another
    smaller = remove_zero_channels(masked, inputs, [inputs])
    (removed,) = [one for one in smaller.removed if one.group == "0"]
    assert removed.kept == (1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15)
    (left,) = [one for one in smaller.left if one.group == "0"]
    assert (left.channels, left.reason) == (1, "channels go in bundles of 4")


def test_a_constant_goes_into_the_bias_of_the_next_layer() -> None:
    """relu(0 x + 2) = 2 enters with weight 3: the bias grows from 1 to 7; a layer gets one."""
    for bias in (True, False):
        model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=bias)).eval()
        prune.custom_from_mask(
            model[0], "weight", torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
        )
        with torch.no_grad():
            model[0].bias.copy_(torch.tensor([0.1, 2.0, -0.2]))
            model[2].weight.copy_(torch.tensor([[1.0, 3.0, -1.0]]))
            if bias:
                model[2].bias.fill_(1.0)
        plain, inputs = masks.permanent(model), (torch.randn(5, 2),)
        found = remove_zero_channels(plain, inputs, [inputs])
        assert [(one.kept, one.folded) for one in found.removed] == [((0, 2), 1)]
        assert found.model[2].bias.item() == pytest.approx(7.0 if bias else 6.0)
        assert torch.allclose(found.model(*inputs), plain(*inputs), atol=1e-6)
        again = replay(plain, inputs, found.removed)
        again.load_state_dict(found.model.state_dict())


def test_a_constant_before_zero_padding_stays_and_says_why() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(8, 2)
    ).eval()
    with torch.no_grad():
        model[0].weight[1].zero_()
        model[0].bias[1] = 1.5
        model[0].weight[2].zero_()
        model[0].bias[2] = -1.5  # 0 behind the ReLU
    inputs = (torch.randn(2, 1, 4, 4),)
    found = remove_zero_channels(model, inputs, [inputs])
    assert [(one.group, one.kept) for one in found.removed] == [("0", (0, 1, 3))]
    (left,) = found.left
    assert (left.group, left.channels) == ("0", 1)
    assert "no bias can stand for" in left.reason


def test_a_group_keeps_one_channel() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
    inputs = (torch.randn(4, 2),)
    found = remove_zero_channels(model, inputs, [inputs])
    assert found.model[0].out_features == 1
    assert "one channel" in found.left[0].reason
    assert torch.allclose(found.model(*inputs), model(*inputs), atol=1e-6)


def test_channels_with_weights_are_not_touched() -> None:
    model, inputs = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).eval(), (torch.randn(4, 2),)
    found = remove_zero_channels(model, inputs, [inputs])
    assert found.removed == ()
    assert found.model is model
