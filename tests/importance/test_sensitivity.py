"""Sensitivity curves on a network whose right answer is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgeprune.data import Data
from edgeprune.errors import DataError, UserFunctionError
from edgeprune.importance.kept import CurveStore
from edgeprune.importance.meter import LossMeter, mean_loss, performance
from edgeprune.importance.scores import keep_best
from edgeprune.importance.sensitivity import (
    agreement,
    best_curves,
    importance_curves,
    sensitivity_curves,
    trial_widths,
)
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.records import SensitivityCurve
from edgeprune.recovery.batchnorm import recalibrate
from edgeprune.store import once


def identity_net() -> nn.Module:
    """Two hidden layers of 8; of the first only channels 0 and 1 carry anything."""
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.zero_()
            layer.bias.zero_()
        model[0].weight[:2] = torch.eye(2)
        model[2].weight[:2, :2] = torch.eye(2)
        model[4].weight[:, :2] = 5 * torch.eye(2)
    return model.eval()


@pytest.fixture
def setting() -> tuple[nn.Module, Data]:
    labels = torch.arange(40) % 2
    x = torch.nn.functional.one_hot(labels, 2).float()
    batches = [(x, labels)]
    return identity_net(), Data(x[:1], None, batches, batches)


def test_useless_channels_cost_nothing_and_useful_ones_do(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    groups = find_groups(model, data.example).groups
    scores = {"l2": {g.name: torch.arange(8.0).flip(0) for g in groups}}
    widths = {g.name: (1, 2, 4, 8) for g in groups}
    curves = sensitivity_curves(model, data, widths, scores, samples=40)
    assert {c.group for c in curves} == {"0", "2"}
    for curve in curves:
        assert curve.widths == (1, 2, 4, 8)
        assert curve.increases[1:] == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)
        assert curve.increases[0] > 0.3


def test_curve_equals_cutting_by_hand(build, groups_of) -> None:  # type: ignore[no-untyped-def]
    model, inputs = build("residual")
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 3, 8, 8, generator=generator), torch.arange(32) % 10
    data = Data(inputs[0], None, [(x, y)], [(x, y)])
    group = groups_of("residual").groups[0]
    scores = torch.rand(group.width, generator=generator)
    (curve,) = sensitivity_curves(
        model, data, {group.name: (4, 9, group.width)}, {"l2": {group.name: scores}}, samples=32
    )
    expected = []
    for width in (4, 9, group.width):
        slim = cut(model, inputs, {group.name: keep_best(scores, width)})
        recalibrate(slim, [(x,)])
        expected.append(performance(slim, data, [((x,), y)]))
    differences = [found.loss - expected[-1].loss for found in expected]
    assert curve.increases == pytest.approx(differences, abs=1e-5)
    assert curve.drops == pytest.approx([expected[-1].metric - found.metric for found in expected])


def test_progress_reaches_the_end(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    seen: list[tuple[int, int]] = []
    scores = {"l2": {"0": torch.arange(8.0)}, "l1": {"0": torch.arange(8.0)}}
    sensitivity_curves(
        model, data, {"0": (2, 8)}, scores, samples=40,
        progress=lambda done, total, what: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (2, 2)


def test_only_the_best_criterion_is_measured_at_every_width(
    setting: tuple[nn.Module, Data],
) -> None:
    model, data = setting
    good, bad = torch.arange(8.0).flip(0), torch.arange(8.0)
    widths = {"0": (1, 2, 3, 4, 5, 6, 7, 8)}
    curves = sensitivity_curves(
        model, data, widths, {"l1": {"0": bad}, "l2": {"0": good}}, samples=40
    )
    by = {curve.criterion: curve for curve in curves}
    assert by["l2"].widths == widths["0"]
    assert by["l1"].widths == (*reversed(trial_widths(widths["0"], 2)), 8)
    assert len(by["l1"].widths) == 4
    assert best_curves(curves)["0"] is by["l2"]


def test_criteria_are_tried_across_the_whole_range() -> None:
    assert trial_widths((2, 4, 6, 8), 2) == (6, 4, 2)
    assert trial_widths(tuple(range(8, 136, 8)), 2) == (88, 56, 32)
    assert trial_widths((2, 4, 6, 8), 1) == ()


def test_importance_curves_sum_the_smallest_scores() -> None:
    scores: dict[str, Tensor] = {"g": torch.tensor([4.0, 1.0, 3.0, 2.0])}
    (curve,) = importance_curves({"g": (1, 2, 4)}, scores, "taylor")
    assert curve.increases == pytest.approx((6.0, 3.0, 0.0))


def test_the_better_criterion_is_kept_group_by_group() -> None:
    def curve(group: str, criterion: str, worst: float) -> SensitivityCurve:
        return SensitivityCurve(
            group=group, criterion=criterion, widths=(1, 2), increases=(worst, 0.0)
        )

    curves = [
        curve("a", "taylor", 0.2),
        curve("b", "taylor", 0.5),
        curve("a", "l2", 0.3),
        curve("b", "l2", 0.1),
    ]
    assert {g: c.criterion for g, c in best_curves(curves).items()} == {"a": "taylor", "b": "l2"}


def test_losses_are_not_measured_without_labels(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    x = torch.randn(8, 2)
    unlabelled = Data(x[:1], None, [(x, torch.full((8,), -1))], data.validation)
    with pytest.raises(DataError, match="sensitivity needs labels, and batch 0"):
        sensitivity_curves(
            model, unlabelled, {"0": (2, 8)}, {"l2": {"0": torch.arange(8.0)}}, samples=8
        )


class Stopped(RuntimeError):
    """The measurement was cut short."""


def test_finished_groups_are_kept_when_the_measurement_is_cut_short(
    setting: tuple[nn.Module, Data], tmp_path: Path
) -> None:
    model, data = setting
    scores = {"l2": {"0": torch.arange(8.0), "2": torch.arange(8.0)}}
    widths, store = {"0": (1, 2, 8), "2": (1, 2, 8)}, CurveStore(tmp_path, "model")
    evaluated: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        evaluated.append(1)
        return nn.functional.cross_entropy(output, target)

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("2"):
            raise Stopped

    counted = Data(data.example_inputs, None, data.calibration, data.validation, loss=loss)
    with pytest.raises(Stopped):
        sensitivity_curves(model, counted, widths, scores, samples=40, store=store, progress=stop)
    assert len(evaluated) == 1 + 2  # dense, and two widths of group 0
    curves = sensitivity_curves(model, counted, widths, scores, samples=40, store=store)
    assert len(evaluated) == 3 + 1 + 2  # dense again, and group 2 alone
    assert sensitivity_curves(model, counted, widths, scores, samples=40, store=store) == curves
    assert len(evaluated) == 6
    assert curves == sensitivity_curves(model, data, widths, scores, samples=40)


def test_kept_curves_belong_to_their_content(tmp_path: Path) -> None:
    curve = SensitivityCurve(group="a", criterion="l2", widths=(1, 2), increases=(0.5, 0.0))
    store, scores = CurveStore(tmp_path, "model"), {"l2": torch.tensor([1.0, 2.0])}
    store.save("a", (1, 2), scores, [curve])
    assert store.load("a", (1, 2), scores) == (curve,)
    assert store.load("b", (1, 2), scores) is None
    assert store.load("a", (2,), scores) is None
    assert store.load("a", (1, 2), {"l2": torch.tensor([1.0, 3.0])}) is None
    assert store.load("a", (1, 2), {"l1": scores["l2"]}) is None
    assert CurveStore(tmp_path, "another").load("a", (1, 2), scores) is None
    next(tmp_path.iterdir()).write_text("{")
    assert store.load("a", (1, 2), scores) is None


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_of_a_cut_model_that_is_not_finite_is_told_with_the_cut(
    setting: tuple[nn.Module, Data], factor: float
) -> None:
    def ruined(output: Tensor, target: Tensor) -> Tensor:
        blind = output.abs().sum(1).min() == 0  # of one class, once channel 1 is gone
        return cross_entropy(output, target) * (factor if blind else 1.0)

    model, data = setting[0], replace(setting[1], loss=ruined)
    scores = {"l2": {"0": torch.arange(8.0).flip(0)}}
    where = "for 40 samples of calibration, with "
    with pytest.raises(UserFunctionError, match=f"returned {factor} {where}group 0 at width 1\n"):
        sensitivity_curves(model, data, {"0": (1, 2, 8)}, scores, samples=40)
    meter = LossMeter(model, data, 40)
    for measured in (meter.increase, meter.least_increase):
        assert measured({"0": [0, 1]}) == pytest.approx(0.0, abs=1e-6)
        with pytest.raises(UserFunctionError, match=f"{where}group 0 at width 1, group 2 at"):
            measured({"0": [0], "2": [0, 1]})


def test_batches_of_ignored_labels_alone_have_no_part_in_the_loss(
    setting: tuple[nn.Module, Data],
) -> None:
    model, data = setting
    ((x, labels),) = data.calibration
    assert isinstance(x, Tensor)
    ignored = ((x[:9],), torch.full((9,), -100))
    loss, metric, *_ = performance(model, data, [((x,), labels), ignored])
    assert (loss, metric) == (mean_loss(model, data, [((x,), labels)]), 40 / 49)
    with pytest.raises(UserFunctionError, match="nan for 9 samples of validation"):
        mean_loss(model, data, [ignored], part="validation")


@pytest.mark.parametrize(
    "curves",
    [
        [],
        [{"group": "b"}],
        [{"criterion": "l1"}],
        [{}, {}],
        [{"widths": (1, 3), "increases": (0.5, 0.0)}],
        [{"widths": (2, 4), "increases": (0.5, 0.0)}],  # no curve over all widths
        [{"widths": (1, 3, 4)}],
        [{"increases": (0.5,)}],
        [{"drops": (0.5, 0.0)}],
        [{"widths": (), "increases": ()}],
    ],
)
def test_kept_curves_that_do_not_answer_are_measured_again(tmp_path: Path, curves: list) -> None:
    good = {"group": "a", "criterion": "l2", "widths": (1, 2, 4), "increases": (0.5, 0.2, 0.0)}
    store, scores = CurveStore(tmp_path, "model"), {"l2": torch.ones(4)}
    store.save("a", (1, 2, 4), scores, [SensitivityCurve(**good)])
    assert store.load("a", (1, 2, 4), scores)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps({"curves": [good | change for change in curves]}))
    assert store.load("a", (1, 2, 4), scores) is None


def test_curves_that_cannot_be_kept_are_told_once(
    setting: tuple[nn.Module, Data], tmp_path: Path
) -> None:
    model, data = setting
    scores = {"l2": {"0": torch.arange(8.0), "2": torch.arange(8.0)}}
    widths, told = {"0": (1, 8), "2": (1, 8)}, list[str]()
    (tmp_path / "file").touch()
    store = CurveStore(tmp_path / "file", "model", once(told.append))
    curves = sensitivity_curves(model, data, widths, scores, samples=40, store=store)
    assert curves == sensitivity_curves(model, data, widths, scores, samples=40)
    (line,) = told
    assert f"{tmp_path / 'file'} is a file, not a folder; XDG_CACHE_HOME may name" in line


def noisy(seed: int, noise: float) -> dict[str, SensitivityCurve]:
    generator = torch.Generator().manual_seed(seed)
    widths, truth = tuple(range(1, 22)), torch.linspace(2.0, 0.0, 21)
    halves = [
        tuple((truth + noise * torch.randn(21, generator=generator)).tolist()) for _ in range(2)
    ]
    curve = SensitivityCurve(
        group="a", criterion="l2", widths=widths, increases=halves[0], even=halves[0], odd=halves[1]
    )
    return {"a": curve}


def test_halves_of_the_batches_agree_where_noise_is_small() -> None:
    sure, unsure = agreement(noisy(0, 1e-3)), agreement(noisy(0, 100.0))
    assert sure == pytest.approx(1.0)
    assert unsure is not None
    assert abs(unsure) < 0.5
    curves = noisy(0, 0.3)
    found = agreement(curves)
    ranks = [sorted(half[:-1]) for half in (curves["a"].even, curves["a"].odd)]
    pairs = zip(curves["a"].even[:-1], curves["a"].odd[:-1], strict=True)
    square = sum((ranks[0].index(a) - ranks[1].index(b)) ** 2 for a, b in pairs)
    assert found == pytest.approx(1 - 6 * square / (20 * (20**2 - 1)))  # Spearman's formula


def test_equal_losses_share_their_ranks() -> None:
    curve = SensitivityCurve(
        group="a", criterion="l2", widths=(1, 2, 3, 4, 5), increases=(0.0,) * 5,
        even=(3.0, 1.0, 1.0, 0.0, 0.0), odd=(2.0, 2.0, 1.0, 0.0, 0.0),
    )  # fmt: skip
    found = agreement({"a": curve})
    assert found == pytest.approx(7.5 / 9)  # of (4, 2.5, 2.5, 1) and (3.5, 3.5, 2, 1): 3.75 of 4.5
    flat = curve.model_copy(update={"even": (0.0,) * 5})
    assert agreement({"a": flat}) is None


def test_halves_are_those_of_the_batches(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    ((x, y),) = data.calibration
    parts = [(x[:10], y[:10]), (x[10:20], y[10:20]), (x[20:], y[20:])]
    data = Data(x[:1], None, parts, parts)
    found = performance(model, data, [((a,), b) for a, b in parts])
    even = performance(model, data, [((a,), b) for a, b in parts[::2]])
    assert found.even == pytest.approx(even.loss)
    assert found.loss == pytest.approx((found.even * 30 + found.odd * 10) / 40)


def test_a_single_batch_has_no_halves(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    scores = {"l2": {"0": torch.arange(8.0)}}
    curves = sensitivity_curves(model, data, {"0": (2, 4, 6, 8)}, scores, samples=40)
    assert curves[0].even == curves[0].odd == ()
    assert agreement({"0": curves[0]}) is None
