"""Frozen layers: found, cut, scored and re-fitted as any other, trained never."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgeprune.bench.fresh import redrawn
from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.importance.gates import learned_gates
from edgeprune.importance.in_plan import InPlan
from edgeprune.importance.registry import CRITERIA
from edgeprune.importance.scores import score_channels
from edgeprune.pruning.blocks import find_blocks
from edgeprune.pruning.groups import cut, find_groups, narrowing
from edgeprune.pruning.ranking import torch_pruning_keeps
from edgeprune.recovery.finetuning import recover
from edgeprune.recovery.regularisation import KINDS, train_regularised
from edgeprune.recovery.training import side_by_side
from edgeprune.sections import RecoverSection, RegulariseSection

FROZEN = {
    "all": lambda name: True,
    "all but the head": lambda name: not name.startswith("head"),
    "the first": lambda name: name.startswith(("stem", "a1", "conv1", "bn")),
    "biases": lambda name: name.endswith("bias"),
}


def frozen(model: nn.Module, which: str) -> nn.Module:
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not FROZEN[which](name))
    return model


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def samples(inputs: tuple[torch.Tensor, ...]) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, *inputs[0].shape[1:], generator=generator)
    batch = (x, torch.randint(0, 10, (16,), generator=generator))
    return Data(inputs[0], [batch], [batch], [batch])


@pytest.mark.parametrize("which", FROZEN)
@pytest.mark.parametrize("name", ["plain", "residual", "separable"])
def test_groups_and_branches_are_those_of_the_model_that_trains(build, name: str, which) -> None:
    model, inputs = build(name)
    still = frozen(model, which)
    before = flags(still)
    wanted, found = find_groups(model, inputs), find_groups(still, inputs)
    assert found == wanted
    blocks = find_blocks(still, inputs, found.groups)
    assert blocks == find_blocks(model, inputs, wanted.groups)
    assert flags(still) == before


@pytest.mark.parametrize("which", FROZEN)
def test_what_is_cut_is_as_frozen_as_before(build, which: str) -> None:
    model, inputs = build("residual")
    still = frozen(model, which)
    kept = {group.name: range(3, group.width) for group in find_groups(still, inputs).groups}
    slim = cut(still, inputs, kept)
    assert flags(slim) == flags(still)
    state = cut(model, inputs, kept).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in slim.state_dict().items())
    (narrowed,) = narrowing(still, inputs, "stem", [range(3, 16)])
    assert narrowed.stem.out_channels == 13
    assert {name for name, on in flags(still).items() if on} == {
        name for name, parameter in still.named_parameters() if parameter.requires_grad
    }


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_every_criterion_scores_frozen_layers_as_any_other(build, criterion: str) -> None:
    model, inputs = build("plain")
    still, data = frozen(model, "all but the head"), samples(inputs)
    groups = find_groups(model, inputs).groups
    wanted, found = (
        score_channels(each, data, groups, criterion, samples=16) for each in (model, still)
    )
    for name, score in wanted.items():
        torch.testing.assert_close(found[name], score)
    assert flags(still) == flags(frozen(model, "all but the head"))


def test_rankings_within_a_plan_take_frozen_layers(build) -> None:
    model, inputs = build("plain")
    still, data = frozen(model, "all"), samples(inputs)
    groups = find_groups(model, inputs).groups
    kept = {group.name: tuple(range(group.width // 2)) for group in groups}
    ranked = [InPlan(each, data, groups, samples=16)(kept) for each in (model, still)]
    assert ranked[0] == ranked[1]
    gates = [next(learned_gates(each, data, groups, kept)) for each in (model, still)]
    assert all(torch.equal(gates[1][name], gate) for name, gate in gates[0].items())
    scores = score_channels(model, data, groups, "l2", samples=16)
    taken = [torch_pruning_keeps(each, inputs, scores, 0.5) for each in (model, still)]
    assert taken[0] == taken[1]
    assert all(len(taken[0][group.name]) < group.width for group in groups)


@pytest.mark.parametrize("which", ["all", "all but the head"])
def test_recovery_re_fits_frozen_layers_and_does_not_train_them(build, which: str) -> None:
    model, inputs = build("plain")
    still, data = frozen(model, which), samples(inputs)
    kept = {group.name: range(4, group.width) for group in find_groups(still, inputs).groups}
    slim = cut(still, inputs, kept)
    settings = RecoverSection(steps=3, reconstruct=False, learning_rate=0.1)
    found = recover(slim, still, data, settings, seed=0, kept=kept)
    assert bool(found.history) == (which != "all")
    trained = cut(still, inputs, kept)
    ((_, averages), *_) = side_by_side([trained], still, data, settings)
    assert averages
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, slim.get_parameter(name)) != parameter.requires_grad
    settings = settings.model_copy(update={"steps": 0, "reconstruct": True})
    refitted = recover(slim, still, data, settings, seed=0, kept=kept).model
    assert not torch.equal(refitted.conv2.weight, slim.conv2.weight)
    assert flags(refitted) == flags(still)


@pytest.mark.parametrize("kind", KINDS)
def test_regularised_training_leaves_frozen_parameters_alone(build, kind: str) -> None:
    model, inputs = build("plain")
    groups, data = find_groups(model, inputs).groups, samples(inputs)
    settings = RegulariseSection(kind=kind, steps=2)
    for which in ("the first", "biases"):
        still = frozen(model, which)
        trained = train_regularised(still, data, groups, settings, seed=0).model
        assert flags(trained) == flags(still)
        for name, parameter in still.named_parameters():
            if not parameter.requires_grad:
                assert torch.equal(trained.get_parameter(name), parameter)
    with pytest.raises(UsageError, match="every parameter of the model is frozen"):
        train_regularised(frozen(model, "all"), data, groups, settings, seed=0)


def test_a_network_trained_from_scratch_trains_whole(build) -> None:
    fresh = frozen(build("plain")[0], "all but the head")
    state = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    assert all(flags(redrawn(fresh, state, state, 0)).values())
