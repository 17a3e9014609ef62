"""Whole data sets go to the device in requests that it can answer, in memory and in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.data import Data
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.protocol import Answer, Request
from edgeprune.errors import DeadlineError
from edgeprune.export.onnx_graph import describe, export
from edgeprune.records import DeviceSpec
from edgeprune.verify import files, inference
from edgeprune.verify.accuracy import evaluate
from edgeprune.verify.files import file_parity
from edgeprune.verify.inference import infer, run_arrays
from edgeprune.verify.parity import parity


@dataclass
class Watched:
    """A device that keeps how many rows each request brought, and the bytes of inputs and outputs."""

    device: LocalDevice
    rows: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)

    @property
    def spec(self) -> DeviceSpec:
        return self.device.spec

    def ask(self, request: Request) -> Answer:
        answer = self.device.ask(request)
        with np.load(str(request.inputs)) as arrays:
            (given,) = arrays.values()
        output = np.load(str(request.outputs))
        self.rows.append(len(given))
        self.taken.append(given.nbytes + output.nbytes)
        return answer


@pytest.fixture
def watched(local: LocalDevice) -> Watched:
    return Watched(local)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 20).eval()


@pytest.fixture(scope="module")
def path(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a file that takes two samples a run: 208 bytes of inputs and outputs."""
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(network, (torch.zeros(2, 6),), file, opset=20)
    return file


ROWS = torch.randn(11, 6, generator=torch.Generator().manual_seed(1))


def test_a_request_holds_no_more_bytes_than_allowed(
    watched: Watched, network: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {describe(path).inputs[0].name: ROWS.numpy()}
    whole = run_arrays(watched, path, describe(path), columns)
    assert watched.rows == [11]
    monkeypatch.setattr(inference, "BYTES_AT_ONCE", 2 * 208 + 100)
    parts = run_arrays(watched, path, describe(path), columns)
    assert watched.rows[1:] == [4, 4, 3], "whole batches of the model"
    assert max(watched.taken[1:]) <= 2 * 208 + 100
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_allclose(parts, network(ROWS).detach().numpy(), atol=1e-5)


def test_a_run_larger_than_allowed_goes_alone(
    watched: Watched, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "BYTES_AT_ONCE", 1)
    columns = {describe(path).inputs[0].name: ROWS[:4].numpy()}
    assert run_arrays(watched, path, describe(path), columns).shape == (4, 20)
    assert watched.rows == [2, 2]


def test_large_outputs_are_not_waited_for(
    watched: Watched, network: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "BYTES_AT_ONCE", 4 * 104)
    pairs = [(part, torch.zeros(len(part))) for part in ROWS.split(2)]
    for number, (output, ((x,), _)) in enumerate(
        infer(watched, path, describe(path), pairs, "test")
    ):
        assert len(watched.rows) == number // 2 + 1, "yielded before the rest was computed"
        assert torch.allclose(output, network(x), atol=1e-5)
    assert watched.rows == [4, 4, 3]


def test_a_model_too_slow_for_one_request_is_verified(
    watched: Watched, network: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "DEADLINE", 0.0)  # every run is the last one in time
    pairs = [(ROWS[:6], torch.arange(6))]
    data = Data(torch.zeros(2, 6), None, pairs, pairs)
    assert parity(network, watched, path, describe(path), data).passed
    assert watched.rows == [6, 2, 2], "what was made in time is what is asked for next"
    found = evaluate(watched, path, describe(path), data)
    assert (found.samples, found.value) == (6, data.metric(network(ROWS[:6]), torch.arange(6)))


def test_a_device_that_makes_no_run_in_time_is_told(local: LocalDevice, path: Path) -> None:
    class Stuck(Watched):
        def ask(self, request: Request) -> Answer:
            answer = super().ask(request)
            models = tuple(model.model_copy(update={"made": 0}) for model in answer.models)
            return answer.model_copy(update={"stopped": "time", "models": models})

    columns = {describe(path).inputs[0].name: ROWS.numpy()}
    with pytest.raises(DeadlineError, match=r"no run of model.onnx within 600 s"):
        run_arrays(Stuck(local), path, describe(path), columns)


def test_two_files_are_compared_on_as_many_samples_as_fit(
    watched: Watched, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (path, describe(path)), (path, describe(path))
    assert file_parity(watched, *both).samples == 64
    monkeypatch.setattr(files, "HELD", 3 * 208)
    found = file_parity(watched, *both)
    assert (found.samples, found.passed) == (3, True)
