"""Batches of one sample: left out where BatchNorm finds no variance in them, and only there."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edgeprune.data import Batch, Data
from edgeprune.errors import DataError
from edgeprune.importance.meter import LossMeter
from edgeprune.job import Job
from edgeprune.pruning.groups import find_groups
from edgeprune.recovery.batchnorm import Measurable, recalibrate
from edgeprune.recovery.finetuning import recover
from edgeprune.recovery.regularisation import train_regularised
from edgeprune.recovery.training import lessons
from edgeprune.sections import RecoverSection, RegulariseSection
from edgeprune.stages import steps

STEPS = RecoverSection(steps=4)


def images(*sizes: int) -> list[Batch]:
    x = torch.randn(sum(sizes), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(sizes), (torch.arange(len(x)) % 5).split(sizes), strict=True))


def network(kind: str) -> nn.Module:
    """Behind "flat" and "pooled" layers a sample has one value a channel, over "maps" it has 16."""
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    layers: list[nn.Module] = {
        "flat": [nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)],
        "pooled": [
            nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), *head,
        ],
        "maps": [nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), *head],
    }[kind]  # fmt: skip
    return nn.Sequential(*layers).eval()


def data(train: list[Batch] | None, calibration: list[Batch]) -> Data:
    held = images(16)
    return Data(held[0][0][:1], train, calibration, held)


def job(**sections: object) -> Job:
    least = {"name": "j", "model": {"factory": "m:f"}, "data": {"factory": "m:f"}}
    return Job.model_validate({**least, "budget": {"latency": "50%"}, **sections})


def sizes(model: nn.Module, given: Data, count: int) -> list[int]:
    settings = RecoverSection(steps=count)
    return [len(lesson.target) for lesson in lessons(model, given, settings, [model])]


@pytest.mark.parametrize(
    ("kind", "trained"), [("flat", [4, 4, 4]), ("pooled", [4, 4, 4]), ("maps", [4, 1, 4])]
)
def test_training_leaves_out_only_what_cannot_be_taken(kind: str, trained: list[int]) -> None:
    model, given = network(kind), data(images(4, 1), images(4))
    before = copy.deepcopy(model.state_dict())
    assert sizes(model, given, 3) == trained
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(recover(model, model, given, STEPS, seed=0).history) > 0


@pytest.mark.parametrize("kind", ["flat", "pooled"])
def test_statistics_are_those_of_the_other_batches(kind: str) -> None:
    model, alone = network(kind), network(kind)
    (large, labels), (single, label) = images(4, 1)
    recalibrate(model, [(large,), (single,)])
    recalibrate(alone, [(large,)])
    assert all(torch.equal(v, alone.state_dict()[n]) for n, v in model.state_dict().items())
    meter = LossMeter(network(kind), data(None, [(single, label), (large, labels)]), 5)
    assert meter.dense[0] > 0  # the loss is that of all five samples


def test_a_batch_of_one_counts_where_its_maps_have_a_variance() -> None:
    model = network("maps")
    (large, _), (single, _) = images(4, 1)
    recalibrate(model, [(large,), (single,)])
    with torch.no_grad():
        means = [model[0](x).mean((0, 2, 3)) for x in (large, single)]
    torch.testing.assert_close(model[1].running_mean, (4 * means[0] + means[1]) / 5)


def test_regularised_training_leaves_them_out_too() -> None:
    model, given = network("flat"), data(images(4, 1), images(4))
    groups = find_groups(model, given.example).groups
    section = RegulariseSection(kind="bn_scale", steps=4)
    found = train_regularised(model, given, groups, section, seed=0)
    assert int(found.model[2].num_batches_tracked) == 4
    single = data(images(1, 1), images(4))
    with pytest.raises(DataError, match="batches of train hold one sample each"):
        train_regularised(model, single, groups, section, seed=0)


def test_only_batches_of_one_are_an_error_that_says_what_to_do() -> None:
    ones = images(1, 1, 1)
    model = network("flat")
    with pytest.raises(DataError, match=r"calibration hold one sample.*\n.*two samples or more"):
        recalibrate(model, [(x,) for x, _ in ones])
    with pytest.raises(DataError, match="batches of train hold one sample each"):
        recover(model, model, data(ones, images(4)), STEPS, seed=0)
    assert sizes(network("maps"), data(ones, ones), 3) == [1, 1, 1]


def loader(size: int) -> DataLoader[tuple[Tensor, ...]]:
    x, y = images(6)[0]
    return DataLoader(TensorDataset(x, y), batch_size=size)


@pytest.mark.parametrize("ones", [images(1, 1, 1), loader(1)], ids=["list", "loader"])
def test_it_is_told_before_any_work(ones: list[Batch]) -> None:
    with pytest.raises(DataError, match="calibration hold one sample"):
        steps.check(job(), network("flat"), data(None, ones))
    with pytest.raises(DataError, match="train hold one sample"):
        steps.check(job(), network("flat"), data(ones, images(4)))
    steps.check(job(recover={"steps": 0}), network("flat"), data(ones, images(4)))
    steps.check(job(), network("maps"), data(ones, ones))
    steps.check(job(), network("flat"), data(images(1, 4), images(1, 4)))
    steps.check(job(), network("flat"), data(None, loader(2)))


def test_a_loader_is_not_drawn_from_before_its_time() -> None:
    class Counted:
        passes = 0

        def __iter__(self) -> Iterator[Batch]:
            self.passes += 1
            return iter(images(1, 1))

    counted, shuffled = Counted(), loader(1)
    shuffled.generator = torch.Generator().manual_seed(0)
    state = shuffled.generator.get_state()
    random = torch.get_rng_state()
    steps.check(job(), network("flat"), data(None, counted))
    steps.check(job(), network("maps"), data(shuffled, images(4)))
    assert counted.passes == 0
    assert torch.equal(shuffled.generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_shape_of_a_sample_decides() -> None:
    """The same network can take one sample of 4 x 4 and not one of a single pixel."""
    measurable = Measurable([network("maps")])
    assert measurable((torch.randn(1, 3, 4, 4),))
    assert not measurable((torch.randn(1, 3, 1, 1),))
    assert measurable((torch.randn(2, 3, 1, 1),))
