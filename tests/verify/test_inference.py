"""Parity and accuracy through the real runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data, top1
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.onnx_graph import describe, export
from edgeprune.verify.accuracy import evaluate
from edgeprune.verify.files import file_parity
from edgeprune.verify.inference import infer, numeric_device
from edgeprune.verify.parity import parity


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.fixture(scope="module")
def data() -> Data:
    x, y = torch.randn(70, 6, generator=torch.Generator().manual_seed(1)), torch.arange(70) % 3
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return Data(x[:1], None, batches, batches)


@pytest.fixture(scope="module")
def path(network: nn.Module, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(network, data.example, file, opset=20)
    return file


def test_outputs_come_back_batch_by_batch(
    local: LocalDevice, network: nn.Module, data: Data, path: Path
) -> None:
    rows = list(infer(local, path, describe(path), data.validation, "validation"))
    assert [len(output) for output, _ in rows] == [32, 32, 6]
    for output, ((x,), _) in rows:
        assert torch.allclose(output, network(x), atol=1e-5)


def test_parity_and_accuracy(
    local: LocalDevice, network: nn.Module, data: Data, path: Path
) -> None:
    agreement = parity(network, local, path, describe(path), data)
    assert agreement.passed
    assert agreement.samples == 70
    assert agreement.max_abs < 1e-5
    found = evaluate(local, path, describe(path), data)
    x, y = (torch.cat(part) for part in zip(*data.validation, strict=True))
    assert found.value == pytest.approx(top1(network(x), y))
    assert found.samples == 70
    assert found.shares is not None
    assert found.shares.tolist() == (network(x).argmax(1) == y).double().tolist()


def test_parity_sees_a_wrong_weight(
    local: LocalDevice, network: nn.Module, data: Data, path: Path
) -> None:
    import copy

    other = copy.deepcopy(network)
    with torch.no_grad():
        other[2].bias[1] += 0.01
    agreement = parity(other, local, path, describe(path), data)
    assert not agreement.passed
    assert agreement.max_abs == pytest.approx(0.01, rel=1e-3)
    assert agreement.max_rel > 0


def test_parity_sees_outputs_of_another_shape(
    local: LocalDevice, network: nn.Module, data: Data, path: Path
) -> None:
    wider = nn.Sequential(network, nn.Linear(3, 5))
    agreement = parity(wider, local, path, describe(path), data)
    assert (agreement.passed, agreement.max_abs) == (False, 1e308)


def test_a_file_whose_rows_are_not_the_samples_is_refused(
    local: LocalDevice, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.onnx"
    artifact = export(nn.Flatten(0, 1).eval(), (torch.randn(1, 4, 3),), file, opset=20)
    pairs = [(torch.randn(2, 4, 3), torch.zeros(2))]
    with pytest.raises(UnsupportedModelError, match="returns 8 rows for 2 samples"):
        list(infer(local, file, artifact, pairs, "test"))


def test_test_data_is_used_where_given(local: LocalDevice, data: Data, path: Path) -> None:
    x = torch.zeros(5, 6)
    with_test = Data(
        data.example_inputs, None, data.calibration, data.validation,
        metric=lambda out, target: float(len(target)), test=[(x, torch.zeros(5))],
    )  # fmt: skip
    assert evaluate(local, path, describe(path), with_test).value == 5.0


def test_shares_of_right_answers_are_kept_only_where_the_metric_is_their_mean(
    local: LocalDevice, data: Data, path: Path, tmp_path: Path
) -> None:
    def halved(output: Tensor, target: Tensor) -> float:
        return top1(output, target) / 2

    parts = data.example_inputs, None, data.calibration, data.validation
    assert evaluate(local, path, describe(path), Data(*parts, metric=halved)).shares is None
    pixels = nn.Conv1d(2, 3, 1).eval()
    x, y = torch.randn(12, 2, 5), torch.randint(0, 3, (12, 5))
    file = tmp_path / "pixels.onnx"
    artifact = export(pixels, (x[:1],), file, opset=20)
    found = evaluate(local, file, artifact, Data(x[:1], None, [(x, y)], [(x, y)]))
    wanted = (pixels(x).argmax(1) == y).double().mean(1)
    assert found.shares is not None
    assert found.shares.tolist() == wanted.tolist(), "one share a sample, not one a pixel"


def test_labels_that_are_no_classes_are_the_metrics_concern(
    local: LocalDevice, network: nn.Module, data: Data, path: Path
) -> None:
    def left_out(output: Tensor, target: Tensor) -> float:
        return top1(output[target != 255], target[target != 255])

    x, y = data.validation[0]
    ignored = y.clone()
    ignored[7] = 255
    test = [(x, ignored), data.validation[1]]
    given = Data(x[:1], None, data.calibration, data.validation, metric=left_out, test=test)
    found = evaluate(local, path, describe(path), given)
    assert found.value == pytest.approx(sum(left_out(network(a), b) for a, b in test) / 2)
    assert found.labels is None
    assert found.answers is not None
    assert found.answers.tolist() == torch.cat([network(a).argmax(1) for a, _ in test]).tolist()
    known = evaluate(local, path, describe(path), data)
    assert known.labels is not None
    assert known.labels.tolist() == [*range(3)] * 23 + [0]


def test_several_inputs_and_a_batch_that_does_not_divide(
    local: LocalDevice, tmp_path: Path
) -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a.sum(1, keepdim=True) - b

    inputs = (torch.randn(4, 3), torch.randn(4, 1))
    file = tmp_path / "sum.onnx"
    artifact = export(Sum().eval(), inputs, file, opset=20)
    a, b = torch.randn(10, 3), torch.randn(10, 1)
    ((output, _),) = infer(local, file, artifact, [((a, b), torch.zeros(10))], "test")
    assert torch.allclose(output, a.sum(1, keepdim=True) - b, atol=1e-6)


def test_files_are_compared_on_the_same_inputs(
    local: LocalDevice, network: nn.Module, data: Data, path: Path, tmp_path: Path
) -> None:
    same = file_parity(local, (path, describe(path)), (path, describe(path)))
    assert (same.max_abs, same.passed, same.samples) == (0.0, True, 64)
    import copy

    other = copy.deepcopy(network)
    with torch.no_grad():
        other[2].bias[0] += 1.0
    changed = tmp_path / "changed.onnx"
    export(other, data.example, changed, opset=20)
    different = file_parity(local, (path, describe(path)), (changed, describe(changed)))
    assert not different.passed
    assert different.max_abs == pytest.approx(1.0, rel=1e-4)
    wider = tmp_path / "wider.onnx"
    export(nn.Linear(7, 3).eval(), (torch.randn(1, 7),), wider, opset=20)
    with pytest.raises(UnsupportedModelError, match="cannot be compared"):
        file_parity(local, (path, describe(path)), (wider, describe(wider)))


def test_a_simulated_device_borrows_this_machines_numerics(simulated, local: LocalDevice) -> None:  # type: ignore[no-untyped-def]
    assert numeric_device(local) is local
    borrowed = numeric_device(simulated())
    assert borrowed.spec.transport == "local"
    assert np.isfinite(borrowed.spec.threads)


def test_batches_are_weighed_by_their_samples_whatever_their_targets(
    local: LocalDevice, network: nn.Module, data: Data, path: Path
) -> None:
    x = torch.randn(9, 6)
    test = [(x[:1], torch.tensor(0)), (x[1:], torch.empty(0))]
    given = replace(data, metric=lambda output, target: float(output.mean()), test=test)
    found = evaluate(local, path, describe(path), given)
    assert found.samples == 9
    assert found.value == pytest.approx(float(network(x).detach().mean()), abs=1e-5)
