"""The gate that firmware computes what the runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeprune import Data
from edgeprune.devices.protocol import Answer, Request
from edgeprune.errors import DeviceError
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.onnx_graph import describe
from edgeprune.export.quantization import quantize
from edgeprune.records import DeviceSpec
from edgeprune.verify.firmware import agreement, firmware_parity
from tests.factories import an_environment

SCALE = 0.05


def outputs() -> np.ndarray:
    integers = np.random.default_rng(0).integers(-100, 100, (200, 10))
    integers[:, 3] = 110
    return (integers * SCALE).astype(np.float32)


def test_equal_outputs_and_one_unit_pass() -> None:
    first = outputs()
    assert agreement(first, first, SCALE).max_units == 0
    second = first.copy()
    second[7, 1] += SCALE
    found = agreement(first, second, SCALE)
    assert (found.max_units, found.passed, found.top1_agreement) == (1, True, 1.0)
    assert found.samples == 200


def test_two_units_do_not_pass() -> None:
    first, second = outputs(), outputs()
    second[7, 1] += 2 * SCALE
    found = agreement(first, second, SCALE)
    assert (found.max_units, found.passed) == (2, False)


@pytest.mark.parametrize(("count", "passed"), [(1, True), (2, False)])
def test_top1_has_to_agree_in_995_of_1000(count, passed) -> None:
    first, second = outputs(), outputs()
    first[:count, 4] = 110 * SCALE  # the first of equal outputs wins: still number 3
    second[:count, 4] = 111 * SCALE
    found = agreement(first, second, SCALE)
    assert found.top1_agreement == 1 - count / 200
    assert found.max_units == 1
    assert found.passed is passed


class Firmware:
    """A device that answers with the outputs it is given, one after the other."""

    def __init__(self, spec: DeviceSpec, *answers: np.ndarray) -> None:
        self.spec, self.answers = spec, list(answers)

    def ask(self, request: Request) -> Answer:
        np.save(request.outputs, self.answers.pop(0))
        return Answer(stopped="fixed", models=(), environment=an_environment())


@pytest.mark.parametrize("repeats", [True, False])
def test_the_firmware_has_to_repeat_its_bytes(
    exported, build, simulated, tmp_path, repeats
) -> None:
    _, (example,) = build("plain")
    path = tmp_path / "int8.onnx"
    quantize(exported("plain"), path, [example.numpy()])
    scale = read_integer_graph(path).tensors[read_integer_graph(path).output].scale
    runtime = np.arange(6, dtype=np.float32).reshape(2, 3) * np.float32(scale)
    again = runtime if repeats else runtime + np.float32(scale) * np.eye(2, 3, dtype=np.float32)
    spec = simulated().spec
    batch = (torch.cat([example, example]), torch.zeros(2, dtype=torch.long))
    data = Data(example, [batch], [batch], [batch])
    found = firmware_parity(
        Firmware(spec, runtime, again), Firmware(spec, runtime), path, describe(path), data
    )
    assert (found.max_units, found.repeats, found.passed) == (0, repeats, repeats)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(DeviceError, match="returns"):
        agreement(outputs(), outputs()[:, :9], SCALE)
