"""Recalibration, distillation and fine-tuning."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import DataError
from edgeprune.pruning.groups import find_groups
from edgeprune.recovery.batchnorm import has_batchnorm, recalibrate
from edgeprune.recovery.finetuning import metric_on, recover
from edgeprune.recovery.regularisation import train_regularised
from edgeprune.recovery.teaching import class_axis, distillation, require_teachable
from edgeprune.recovery.training import optimizer_of
from edgeprune.sections import RecoverSection, RegulariseSection


def separable(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    centres = torch.tensor([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])
    return centres[labels] + 0.6 * torch.randn(count, 2, generator=generator), labels


@pytest.fixture
def data() -> Data:
    x, y = separable(256, 0)
    held, labels = separable(200, 1)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return Data(x[:1], batches, batches[:2], [(held, labels)])


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()


def test_statistics_become_plain_averages_and_nothing_else_changes() -> None:
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(norm, nn.Dropout(0.5)).eval()
    weight = norm.weight.detach().clone()
    first, second = torch.tensor([[0.0, 2.0], [2.0, 2.0]]), torch.tensor([[4.0, 0.0], [8.0, 4.0]])
    recalibrate(model, [(first,), (second,)])
    assert norm.running_mean.tolist() == pytest.approx([(1 + 6) / 2, (2 + 2) / 2])
    assert norm.running_var.tolist() == pytest.approx([(2 + 8) / 2, (0 + 8) / 2])
    third = torch.tensor([[3.0, 1.0]] * 12)  # a batch counts by its samples
    recalibrate(model, [(first,), (third,), (second,)])
    assert norm.running_mean.tolist() == pytest.approx([(2 + 36 + 12) / 16, (4 + 12 + 4) / 16])
    assert norm.running_var.tolist() == pytest.approx([(4 + 0 + 16) / 16, (0 + 0 + 16) / 16])
    assert norm.momentum == 0.1
    assert torch.equal(norm.weight, weight)
    assert not any(module.training for module in model.modules())


def test_models_without_batchnorm_are_left_alone() -> None:
    assert not has_batchnorm(nn.Linear(2, 2))
    recalibrate(nn.Linear(2, 2), [(torch.zeros(1, 2),)])


def test_distillation_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    p = torch.softmax(teacher / 2, 1)[0].tolist()
    q = torch.softmax(student / 2, 1)[0].tolist()
    by_hand = 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(distillation(student, teacher, 2.0)) == pytest.approx(by_hand, rel=1e-5)
    assert float(distillation(teacher, teacher, 2.0)) == pytest.approx(0.0, abs=1e-7)
    values = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 5.0]])
    assert float(distillation(*values, 2.0, None)) == pytest.approx(2.0)
    # positions are distributions of their own, wherever their classes lie
    a, b = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    one_by_one = [
        distillation(x[None], y[None], 2.0) for x, y in zip(a.view(6, 5), b.view(6, 5), strict=True)
    ]
    for last in (
        distillation(a, b, 2.0, -1),
        distillation(a.transpose(1, 2), b.transpose(1, 2), 2.0, 1),
    ):
        assert float(last) == pytest.approx(float(torch.stack(one_by_one).mean()), rel=1e-5)


LABELS, FLOATS, NONE = torch.zeros(4, 7, dtype=torch.long), torch.randn(4, 7), torch.empty(0)


@pytest.mark.parametrize(
    ("output", "target", "loss", "said", "axis"),
    [
        ((4, 3), LABELS[:, 0], "cross_entropy", "auto", 1),
        ((4, 3, 7), LABELS, "cross_entropy", "auto", 1),  # as a language model of this project
        ((4, 7, 3), LABELS, "own", "auto", -1),
        ((4, 7, 7), LABELS, "cross_entropy", "auto", 1),  # both would do: cross-entropy decides
        ((4, 7), FLOATS, "cross_entropy", "auto", 1),  # soft labels
        ((4, 7), FLOATS, "own", "auto", None),
        ((4, 1), FLOATS[:, :1], "own", "auto", None),
        ((4, 1, 7), LABELS, "own", "auto", None),  # a single class is no distribution
        ((4,), FLOATS[:, 0], "own", "auto", None),
        ((4, 3), NONE, "cross_entropy", "auto", 1),
        ((4, 3, 7), NONE, "cross_entropy", "auto", 1),
        ((4, 7), NONE, "own", "auto", DataError),
        ((4, 7), FLOATS, "own", "classes", 1),
        ((4, 3, 7), LABELS, "own", "values", None),
        ((4, 3, 7), LABELS, "own", "classes_last", -1),
        ((4, 3, 7), LABELS[:, 0], "own", "auto", DataError),
    ],
)  # fmt: skip
def test_what_the_dense_model_teaches(
    output: tuple[int, ...],
    target: Tensor,
    loss: str,
    said: Any,
    axis: int | type[Exception] | None,
) -> None:
    own = {"own": lambda output, target: output.sum(), "cross_entropy": nn.functional.cross_entropy}
    inputs = torch.zeros(4, *output[1:])
    batch, unlabelled = [(inputs, target)], [(inputs, NONE)]
    model, settings = nn.Identity(), RecoverSection(outputs=said)
    for calibration in (batch, unlabelled):  # validation tells what calibration does not
        found = Data(inputs[:1], batch, calibration, batch, loss=own[loss]).guarded()
        if axis is DataError:
            with pytest.raises(DataError, match="axis classes lie"):
                require_teachable(model, found, settings)
        else:
            require_teachable(model, found, settings)
            assert class_axis(model, found, settings) == axis
        require_teachable(model, found, RecoverSection(distill=False))
        require_teachable(model, found, RecoverSection(steps=0))


def test_recovery_learns_and_keeps_the_dense_model(data: Data) -> None:
    dense = network(0)
    settings = RecoverSection(steps=120, distill=False, learning_rate=0.1)
    before = copy.deepcopy(dense.state_dict())
    result = recover(network(1), dense, data, settings, seed=0)
    assert result.best > 0.9 > result.recalibrated
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())
    assert result.history[-1][0] == 120
    assert not result.model.training


def test_best_state_is_kept_when_training_ruins_the_model(data: Data) -> None:
    good = recover(
        network(1),
        network(0),
        data,
        RecoverSection(steps=120, distill=False, learning_rate=0.1),
        seed=0,
    )
    labels = [(x, torch.zeros_like(y)) for x, y in data.train or []]
    poisoned = Data(data.example_inputs, labels, data.calibration, data.validation)
    settings = RecoverSection(steps=40, distill=False, learning_rate=1.0)
    result = recover(good.model, network(0), poisoned, settings, seed=0)
    assert min(metric for _, _, metric in result.history) < 0.6
    assert result.best >= result.recalibrated > 0.9


def test_without_training_data_the_dense_model_teaches(data: Data) -> None:
    teacher = recover(
        network(1),
        network(0),
        data,
        RecoverSection(steps=150, distill=False, learning_rate=0.1),
        seed=0,
    ).model
    wrong = [(x, torch.zeros_like(y)) for x, y in data.calibration]  # labels must not be used
    unlabelled = Data(data.example_inputs, None, wrong, data.validation)
    result = recover(
        network(2), teacher, unlabelled, RecoverSection(steps=200, learning_rate=0.1), seed=0
    )
    assert result.best > 0.85


def test_same_seed_same_weights(data: Data) -> None:
    settings = RecoverSection(steps=20)
    results = [recover(network(1), network(0), data, settings, seed=3).model for _ in range(2)]
    states = [result.state_dict() for result in results]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_no_steps_means_recalibration_only(data: Data) -> None:
    slim = network(1)
    result = recover(slim, network(0), data, RecoverSection(steps=0), seed=0)
    assert result.best == result.recalibrated
    assert torch.equal(result.model[0].weight, slim[0].weight)


def test_a_loss_that_explodes_is_told(data: Data) -> None:
    bad = Data(
        data.example_inputs, data.train, data.calibration, data.validation,
        loss=lambda out, target: out.sum() * float("nan"),
    )  # fmt: skip
    with pytest.raises(DataError, match="not finite at step 1"):
        recover(network(1), network(0), bad, RecoverSection(steps=5, distill=False), seed=0)


def test_strided_1x1_convolutions_of_few_channels_train_in_a_process_that_survives() -> None:
    """Channels last, their gradient corrupts memory in torch 2.13."""
    code = """
import torch
from torch import nn
from edgeprune.recovery.layout import channels_last, fast_layout, trains_channels_last
model = fast_layout(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 1, 2)))
assert not trains_channels_last(model)
assert trains_channels_last(nn.Sequential(nn.Conv2d(8, 8, 1, 2), nn.Conv2d(4, 8, 1)))
for _ in range(20):
    model(torch.randn(64, 3, 28, 28)).square().mean().backward()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.1), ("adam", 0.01)])
def test_both_optimizers_win_accuracy_back(data, optimizer, rate) -> None:
    dense = recover(network(0), network(0), data, RecoverSection(steps=80, distill=False), seed=0)
    settings = RecoverSection(steps=60, optimizer=optimizer, learning_rate=rate)
    found = recover(network(1), dense.model, data, settings, seed=0)
    assert found.best >= 0.9 > found.recalibrated


def test_adam_moves_by_its_learning_rate_whatever_the_size_of_the_gradient(data) -> None:
    model = network(0)
    optimizer, schedule = optimizer_of(model, 0.01, 1, "adam")
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    rate = schedule.get_last_lr()[0]
    for old, new in zip(before, model.parameters(), strict=True):
        decay = 0.01 if new.ndim > 1 else 0.0  # decoupled: old * (1 - rate * decay)
        assert torch.allclose(new, old * (1 - rate * decay) - rate, atol=1e-6)


def test_the_dense_model_alone_teaches_where_all_labels_of_a_batch_are_ignored(data: Data) -> None:
    assert data.train is not None
    train = [(x, torch.full_like(y, -100) if k == 1 else y) for k, (x, y) in enumerate(data.train)]
    given = replace(data, train=train)
    assert recover(network(1), network(0), given, RecoverSection(steps=10), seed=0).history
    with pytest.raises(DataError, match="the batch of step 2 has no labels, and its loss is nan"):
        recover(network(1), network(0), given, RecoverSection(steps=5, distill=False), seed=0)
    groups = find_groups(network(0), data.example).groups
    with pytest.raises(DataError, match="the batch of step 2 has no labels"):
        train_regularised(
            network(0), given, groups, RegulariseSection(kind="growing", steps=5), seed=0
        )


def test_metrics_that_need_no_labels_are_weighed_by_samples() -> None:
    x, nothing = torch.arange(12.0).reshape(6, 2), torch.empty(0)
    batches = [((x[:1],), torch.tensor(0)), ((x[1:],), nothing)]
    given = Data(x[:1], None, [], [], metric=lambda output, target: float(output.mean()))
    assert metric_on(nn.Identity(), given, batches) == pytest.approx(5.5)
