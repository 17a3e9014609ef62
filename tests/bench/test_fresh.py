"""Baselines that are trained from scratch hold nothing of the trained model."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.bench import fresh
from edgeprune.job import Job
from edgeprune.loading import initial_state, load_model
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.shrink import shrink
from edgeprune.records import WidthPlan

FACTORIES = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, wide=16):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, wide, 3, padding=1), nn.BatchNorm2d(wide)
        self.mix = nn.Conv2d(wide, 8, 1)
        nn.init.normal_(self.mix.weight, 3.0, 0.001)  # no initialisation of torch's
        self.place = nn.Parameter(torch.randn(16, 8))
        self.look = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.mix(self.bn(self.conv(x)).relu()).flatten(2).transpose(1, 2) + self.place
        return self.head(self.look(x, x, x, need_weights=False)[0].mean(1))


def seeded():
    return Net()


def fixed():
    torch.manual_seed(0)
    return Net()


def pretrained():
    net = Net()
    torch.manual_seed(0)
    for tensor in net.conv.parameters():  # stand for weights that a factory fetches
        nn.init.normal_(tensor)
    nn.init.normal_(net.bn.running_mean)
    return net


def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.PReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )


def narrow(width):
    return Net(round(16 * width))


def narrow_fixed(width):
    torch.manual_seed(0)
    return Net(round(16 * width))
"""
pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters")  # of torch-pruning
INPUTS = (torch.ones(1, 3, 4, 4),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fresh_nets.py").write_text(FACTORIES)
    return tmp_path


def a_job(factory: str, narrower: str = "narrow") -> Job:
    return Job.model_validate(
        {
            "name": "j",
            "model": {"factory": f"fresh_nets:{factory}"},
            "data": {"factory": "fresh_nets:data"},
            "budget": {"latency": "50%"},
            "bench": {"narrower": f"fresh_nets:{narrower}"},
        }
    )


def trained(job: Job, folder: Path) -> nn.Module:
    """The factory's model, each of its values another."""
    model = load_model(job, folder)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.5
    return model


@pytest.fixture
def made(folder: Path, make_plan):
    """Factory, seed -> its state under the seed, the trained model, a plan, the fresh cut model."""

    def call(factory: str, seed: int):
        job = a_job(factory)
        initial = initial_state(job.with_overrides(seed=seed), folder)
        dense = trained(job, folder)
        groups = find_groups(dense, INPUTS)
        first = next(g.name for g in groups.groups if g.width == 16)
        plan: WidthPlan = make_plan(groups, {first: 8})
        slim = fresh.scratch(job, folder, dense, INPUTS, plan, seed=seed)
        return initial, dense, plan, slim

    return call


def apart(one: Tensor, other: Tensor) -> bool:
    return bool((one != other).all())


def test_a_factory_that_takes_the_seed_makes_the_weights(made) -> None:
    initial, dense, _, slim = made("seeded", 3)
    assert slim.conv.weight.shape[0] == 8
    assert torch.equal(slim.conv.weight, initial["conv.weight"][8:])  # the kept channels
    assert torch.equal(slim.mix.weight, initial["mix.weight"][:, 8:])  # its own initialisation
    for name in ("place", "look.in_proj_weight", "head.weight"):
        assert torch.equal(slim.get_parameter(name), initial[name])
        assert apart(slim.get_parameter(name), dense.get_parameter(name))
    assert torch.equal(slim.bn.running_mean, torch.zeros(8))
    _, _, _, another = made("seeded", 4)
    assert apart(slim.place, another.place)
    assert apart(slim.mix.weight, another.mix.weight)


def test_a_factory_with_a_seed_of_its_own_still_gives_other_weights_for_other_seeds(made) -> None:
    initial, dense, _, slim = made("fixed", 3)
    _, _, _, another = made("fixed", 4)
    for name in ("conv.weight", "mix.weight", "look.in_proj_weight", "head.bias"):
        assert apart(slim.get_parameter(name), another.get_parameter(name)), name
    assert float(slim.mix.weight.detach().abs().max()) <= 8**-0.5  # torch's, for the cut width
    assert torch.equal(slim.look.out_proj.bias, torch.zeros(8))  # as torch makes attention
    for one in (slim, another):  # torch does not know how to draw it
        assert torch.equal(one.place, initial["place"])
    assert apart(slim.place, dense.place)
    again = made("fixed", 3)[3]
    assert all(
        torch.equal(a, b) for a, b in zip(slim.parameters(), again.parameters(), strict=True)
    )


def test_trained_weights_of_a_factory_are_drawn_anew_and_the_rest_is_its_own(made) -> None:
    initial, _, _, slim = made("pretrained", 3)
    assert apart(slim.conv.weight, initial["conv.weight"][8:])
    assert float(slim.conv.weight.detach().abs().max()) <= 27**-0.5
    assert torch.equal(slim.bn.running_mean, torch.zeros(8))
    assert torch.equal(slim.mix.weight, initial["mix.weight"][:, 8:])


def test_layers_that_torch_knows_are_drawn_as_before(made) -> None:
    """Rows of plain networks whose factory fixes its seed, as in the examples, stay the same."""
    _, dense, plan, slim = made("plain", 3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        before = shrink(dense, INPUTS, plan)
        for module in before.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    for name, tensor in before.state_dict().items():
        assert torch.equal(slim.state_dict()[name], tensor), name


@pytest.mark.parametrize(("factory", "follows"), [("narrow", True), ("narrow_fixed", False)])
def test_narrower_networks_are_the_factory_s(folder: Path, factory: str, follows: bool) -> None:
    job = a_job("seeded", factory)
    one, other = (fresh.narrow(job, folder, 0.5, seed=seed) for seed in (3, 4))
    assert one.conv.weight.shape[0] == 8
    assert apart(one.conv.weight, other.conv.weight)
    assert apart(one.place, other.place) is follows
    special = bool((one.mix.weight.detach() - 3.0).abs().max() < 0.1)
    assert special is follows  # reset only where the seed does not reach it


def test_making_them_draws_nothing_from_the_generators_of_training(folder: Path) -> None:
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    fresh.narrow(a_job("seeded"), folder, 0.5, seed=3)
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]
    assert np.random.get_state()[1].tolist() == drawn[2]
