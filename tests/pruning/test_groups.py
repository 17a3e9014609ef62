from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import InternalCheckError, UnsupportedModelError, UsageError
from edgeprune.pruning.groups import cut, find_groups, group_scores, mask, pruner, widths
from edgeprune.records import ChannelGroup

# model -> group -> (width, producers, consumers, carriers)
EXPECTED = {
    "plain": {
        "conv1": (16, {"conv1"}, {"conv2"}, {"bn1"}),
        "conv2": (24, {"conv2"}, {"head"}, {"bn2"}),
    },
    "residual": {
        "stem": (16, {"stem", "a2"}, {"a1", "b1", "project"}, {"bn", "a2_bn"}),
        "a1": (16, {"a1"}, {"a2"}, {"a1_bn"}),
        "b1": (24, {"b1"}, {"b2"}, {"b1_bn"}),
        "project": (24, {"project", "b2"}, {"head"}, {"project_bn", "b2_bn"}),
    },
    "concat": {
        "left": (8, {"left"}, {"both"}, {"bn"}),
        "right": (16, {"right"}, {"both"}, {"bn"}),
        "both": (16, {"both"}, {"head"}, set()),
    },
    "separable": {
        "deep": (16, {"stem"}, {"point"}, {"deep", "deep_bn", "stem_bn"}),
        "point": (24, {"point"}, {"head"}, {"point_bn"}),
    },
    "mlp": {"0": (32, {"0"}, {"2"}, set()), "2": (24, {"2"}, {"4"}, set())},
    "conv1d": {"0": (16, {"0"}, {"3"}, {"1"}), "3": (24, {"3"}, {"7"}, set())},
    "flattened": {"0": (16, {"0"}, {"4"}, set()), "4": (24, {"4"}, {"6"}, set())},
    "decoder": {"conv": (16, {"conv"}, {"up"}, set()), "up": (8, {"up"}, {"out"}, {"up_bn"})},
    "sigmoid": {"conv": (16, {"conv"}, {"mix"}, set()), "mix": (8, {"mix"}, {"head"}, set())},
    "tokens": {
        "embed": (16, {"embed"}, {"one"}, set()),
        "one": (16, {"one"}, {"two"}, set()),
        "two": (16, {"two"}, {"head"}, set()),
    },
    "prelu": {"0": (16, {"0"}, {"2"}, {"1"}), "2": (8, {"2"}, {"6"}, set())},
    "prelu_channels": {"0": (16, {"0"}, {"2"}, {"1"}), "2": (8, {"2"}, {"6"}, set())},
}
OUTPUT_LAYER = {
    "plain": "head", "residual": "head", "concat": "head", "separable": "head", "mlp": "4", "conv1d": "7",
    "flattened": "6", "decoder": "out", "sigmoid": "head", "grouped": "8", "shuffled": "head", "tokens": "head",
}  # fmt: skip


def described(group: ChannelGroup) -> tuple[int, set[str], set[str], set[str]]:
    return group.width, set(group.outputs), set(group.inputs), set(group.carriers)


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_of_known_models(groups_of, name: str) -> None:
    assert {g.name: described(g) for g in groups_of(name).groups} == EXPECTED[name]


@pytest.mark.parametrize(("name", "layer"), OUTPUT_LAYER.items())
def test_the_output_layer_is_never_cut(groups_of, name: str, layer: str) -> None:
    reasons = {group.name: group.reason for group in groups_of(name).skipped}
    assert reasons[layer] == "it is the model's output"


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_stand_in_the_order_of_the_layers(build, groups_of, name: str) -> None:
    order = list(dict(build(name)[0].named_modules()))
    places = [order.index(group.name) for group in groups_of(name).groups]
    assert places == sorted(places)


def test_what_cannot_be_cut_exactly_is_skipped_with_the_reason(groups_of) -> None:
    assert {g.name for g in groups_of("shuffled").groups} == {"after"}
    assert all(group.reason for group in groups_of("shuffled").skipped)


class OverChannels(nn.Module):
    """A mean over channels sees how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.after, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.after(x - x.mean(1, keepdim=True))
        return self.head(x.mean((2, 3)))


def test_a_cut_that_changes_the_function_is_found_by_the_proof() -> None:
    torch.manual_seed(0)
    found = find_groups(OverChannels().eval(), (torch.randn(1, 3, 8, 8),))
    assert {g.name: g.reason for g in found.skipped}["conv"].startswith(
        "cutting it does not give the output"
    )
    assert {g.name for g in found.groups} == {"after"}


class Asserts(nn.Module):
    """Holds to its width as a bare assert does, whose error has no text."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if x.shape[1] != 6:
            raise AssertionError  # pytest would give an assert a text
        return self.head(self.second(x).relu())


def test_a_fault_without_a_text_is_told_and_leaves_the_other_groups_alone() -> None:
    torch.manual_seed(0)
    found = find_groups(Asserts().eval(), (torch.randn(2, 4),))
    reasons = {group.name: group.reason for group in found.skipped}
    assert reasons["first"] == "cutting it fails: AssertionError: no message"
    assert [group.name for group in found.groups] == ["second"]


class Positions(nn.Module):
    """A parameter of no layer, about which torch-pruning warns; the model warns too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.at = nn.Parameter(torch.ones(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        warnings.warn("of the model", UserWarning, stacklevel=1)
        return self.head(self.second(self.first(x).relu() + self.at).relu())


def test_warnings_of_torch_pruning_are_not_shown() -> None:
    torch.manual_seed(0)
    model, inputs = Positions().eval(), (torch.randn(2, 4),)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = find_groups(model, inputs)
        pruner(model, inputs, ["first"])
    assert {str(one.message) for one in told} == {"of the model"}
    assert "second" in {group.name for group in found.groups}


class SumOfChannels(nn.Module):
    """torch-pruning cuts one channel before a sum over channels, but not several."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.single = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(1, 32, 3, padding=1)
        self.each, self.head = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.each(self.conv(x).relu()).relu().sum(1)
        return self.head(self.single(x)).mean((2, 3)) + torch.stack(
            [y[:, i : i + 2].sum((1, 2)) for i in range(10)], 1
        )


def test_a_group_that_can_lose_one_channel_but_not_half_is_skipped() -> None:
    torch.manual_seed(0)
    found = find_groups(SumOfChannels().eval(), (torch.randn(1, 1, 12, 12),))
    assert [group.name for group in found.groups] == ["single"]
    assert {g.name: g.reason for g in found.skipped}["each"].startswith("cutting it fails")


def test_a_group_of_one_channel_is_skipped() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Conv2d(1, 4, 3)).eval()
    found = find_groups(model, (torch.randn(1, 3, 8, 8),))
    assert {g.name: g.reason for g in found.skipped}["0"] == "it has a single channel"


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (("stem",), {"a1", "b1", "project"}),
        (("a2",), {"a1", "b1", "project"}),  # shares the group of stem
        (("b2_bn",), {"stem", "a1", "b1"}),  # a carrier
        (("stem", "b1"), {"a1", "project"}),
        ((), {"stem", "a1", "b1", "project"}),
    ],
)
def test_layers_that_are_kept(build, keep: tuple[str, ...], left: set[str]) -> None:
    found = find_groups(*build("residual"), keep)
    assert {group.name for group in found.groups} == left
    reasons = [group.reason for group in found.skipped]
    for name in keep:
        assert f"prune.keep names {name}" in reasons


def test_keep_takes_prefixes_of_whole_names_only() -> None:
    body = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6))
    model = nn.Sequential()
    for name, part in (("body", body), ("body2", nn.Linear(6, 6)), ("head", nn.Linear(6, 2))):
        model.add_module(name, part)
    found = find_groups(model.eval(), (torch.randn(1, 4),), ("body",))
    assert {group.name for group in found.groups} == {"body2"}


def test_keep_of_a_layer_that_does_not_exist_lists_those_that_do(build) -> None:
    with pytest.raises(UsageError, match="no layer 'stam'") as caught:
        find_groups(*build("residual"), ("stam",))
    assert "project" in caught.value.hint
    assert "bn" not in caught.value.hint.replace("_bn", "bn").split(", ")


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] < 100:
            raise ValueError("cannot be traced")
        return self.two(self.one(x))


class Interrupted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        raise KeyboardInterrupt


def test_an_interrupt_while_the_model_is_traced_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        find_groups(Interrupted().eval(), (torch.randn(1, 4),))


def test_a_model_that_cannot_be_traced() -> None:
    with pytest.raises(
        UnsupportedModelError, match="cannot be traced for pruning: ValueError"
    ) as caught:
        find_groups(Branching().eval(), (torch.randn(1, 4),))
    assert caught.value.exit_code == 5


class Twice(nn.Module):
    """One convolution used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.same(self.stem(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def test_a_layer_used_twice_is_cut_exactly_or_not_at_all() -> None:
    torch.manual_seed(0)
    model, inputs = Twice().eval(), (torch.randn(1, 3, 8, 8),)
    kept = {group.name: tuple(range(3, group.width)) for group in find_groups(model, inputs).groups}
    slim, masked = cut(model, inputs, kept), mask(model, inputs, kept)
    with torch.inference_mode():
        torch.testing.assert_close(slim(*inputs), masked(*inputs))


def test_nothing_is_left_behind_on_the_model(build) -> None:
    model, inputs = build("residual")
    model = copy.deepcopy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = find_groups(model, inputs)
    kept = {group.name: range(3, group.width) for group in found.groups}
    cut(model, inputs, kept)
    mask(model, inputs, kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in model.parameters()
    )


def test_cut_keeps_the_named_channels_and_their_weights(build) -> None:
    model, inputs = build("plain")
    slim = cut(model, inputs, {"conv1": (1, 5, 6)})
    assert widths(slim, ("conv1", "conv2", "head")) == {"conv1": 3, "conv2": 24, "head": 10}
    assert torch.equal(slim.conv1.weight, model.conv1.weight[[1, 5, 6]])
    assert torch.equal(slim.bn1.running_mean, model.bn1.running_mean[[1, 5, 6]])
    assert torch.equal(slim.conv2.weight, model.conv2.weight[:, [1, 5, 6]])
    assert not slim.training


def test_cut_of_a_flattened_layer_takes_every_entry_of_a_channel(build) -> None:
    model, inputs = build("flattened")
    slim = cut(model, inputs, {"0": (2, 15)})
    wanted = [*range(2 * 16, 3 * 16), *range(15 * 16, 16 * 16)]
    assert torch.equal(slim[4].weight, model[4].weight[:, wanted])


def test_cutting_all_channels_is_refused(build) -> None:
    with pytest.raises(InternalCheckError, match="conv1"):
        cut(*build("plain"), {"conv1": ()})


def test_cutting_nothing_gives_an_equal_copy(build) -> None:
    model, inputs = build("plain")
    slim = cut(model, inputs, {"conv1": range(16)})
    assert slim is not model
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in slim.state_dict().items())


def test_mask_silences_producers_and_consumers(build) -> None:
    model, inputs = build("plain")
    masked = mask(model, inputs, {"conv1": range(4, 16)})
    assert not masked.conv1.weight[:4].any()
    assert not masked.conv1.bias[:4].any()
    assert not masked.bn1.weight[:4].any()
    assert not masked.conv2.weight[:, :4].any()
    assert torch.equal(masked.conv1.weight[4:], model.conv1.weight[4:])
    assert torch.equal(masked.conv2.weight[:, 4:], model.conv2.weight[:, 4:])
    assert torch.equal(masked.head.weight, model.head.weight)


# ----------------------------------------------------------------------------------------- scores


def test_magnitude_scores_are_those_of_the_formula(build) -> None:
    model, inputs = build("mlp")
    scores = group_scores(model, inputs, "l1", ["0"])
    by_hand = model[0].weight.abs().sum(1) + model[2].weight.abs().sum(0)
    torch.testing.assert_close(scores["0"], by_hand.detach())
    squares = model[0].weight.square().sum(1) + model[2].weight.square().sum(0)
    torch.testing.assert_close(group_scores(model, inputs, "l2", ["0"])["0"], squares.detach())


def test_taylor_scores_are_weight_times_gradient(build) -> None:
    model, inputs = copy.deepcopy(build("mlp")[0]), build("mlp")[1]
    model(torch.randn(8, 20)).square().mean().backward()
    scores = group_scores(model, inputs, "taylor", ["0"])
    first, second = (layer.weight * layer.weight.grad for layer in (model[0], model[2]))
    by_hand = first.sum(1).abs() + second.sum(0).abs()  # a channel's weights go together
    torch.testing.assert_close(scores["0"], by_hand.detach())


@pytest.mark.parametrize(
    "name", ["plain", "residual", "separable", "concat", "flattened", "conv1d", "decoder"]
)
@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor"])
def test_one_finite_score_a_channel_for_every_group(
    build, groups_of, name: str, criterion: str
) -> None:
    model, inputs = copy.deepcopy(build(name)[0]), build(name)[1]
    model(*inputs).square().mean().backward()
    groups = groups_of(name).groups
    scores = group_scores(model, inputs, criterion, [group.name for group in groups])
    for group in groups:
        assert scores[group.name].shape == (group.width,)
        assert bool(torch.isfinite(scores[group.name]).all())
        assert len(scores[group.name].unique()) > 1


def test_a_channel_of_zeros_has_the_least_score(build) -> None:
    model, inputs = copy.deepcopy(build("residual")[0]), build("residual")[1]
    with torch.no_grad():
        for layer in (model.a1, model.a1_bn):
            layer.weight[5] = 0
        model.a2.weight[:, 5] = 0
    for criterion in ("l1", "l2"):
        assert int(group_scores(model, inputs, criterion, ["a1"])["a1"].argmin()) == 5


def test_scores_that_are_not_finite_are_refused(build) -> None:
    model, inputs = copy.deepcopy(build("mlp")[0]), build("mlp")[1]
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(InternalCheckError, match="importance l2 of group 0"):
        group_scores(model, inputs, "l2", ["0"])
