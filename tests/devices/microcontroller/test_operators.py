"""Every operator as firmware, within one unit of the last place of onnxruntime's int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.devices.microcontroller.device import MicrocontrollerDevice
from edgeprune.devices.spec import load_spec
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.onnx_graph import describe, export
from edgeprune.export.quantization import quantize
from edgeprune.verify.inference import run_arrays
from tests.devices.microcontroller.operators import Joined, cases
from tests.export.conftest import inputs, reference

pytestmark = pytest.mark.microcontroller
CASES = cases()
SAMPLES = 24


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory):
    """Name of a case -> its int8 file, quantised once."""
    folder = tmp_path_factory.mktemp("operators")

    def path_of(name: str) -> Path:
        path = folder / f"{name}.int8.onnx"
        if not path.exists():
            model, shape = CASES[name]
            write(model, shape, path)
        return path

    return path_of


def write(model: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    source = path.with_suffix(".float.onnx")
    export(model.eval(), (torch.zeros(shape),), source, opset=20)
    quantize(source, path, [inputs(shape, 32, seed=1)])
    return path


def device(name: str) -> MicrocontrollerDevice:
    return MicrocontrollerDevice(load_spec(name))


@pytest.mark.slow  # a firmware each
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("core", ["cortex_m4", pytest.param("cortex_m55", marks=pytest.mark.qemu)])
def test_an_operator_as_firmware_agrees_with_onnxruntime(int8, core: str, name: str) -> None:
    path = int8(name)
    graph = read_integer_graph(path)
    samples = inputs(CASES[name][1], SAMPLES, seed=2)
    outputs = run_arrays(device(core), path, describe(path), {"input": samples})
    units = (outputs - reference(path, samples)) / graph.tensors[graph.output].scale
    assert np.abs(np.rint(units)).max() <= 1
    assert np.unique(outputs).size > min(3, outputs.size // SAMPLES)  # no constant


@pytest.mark.parametrize(
    ("model", "core", "message", "way_out"),
    [
        (
            nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)),
            "cortex_m55",
            r"layer '0'.*Conv has 2 groups",
            "split the layer",
        ),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2, dilation=2)),
            "cortex_m4",
            r"layer '1'.*MaxPool has dilation",
            "float32",
        ),
        (
            Joined(torch.mul, 4),
            "cortex_m4",
            r"operator Mul has no integer kernel for two tensors",
            "float32",
        ),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 2, 2, 2)),
            "cortex_m4",
            r"layer '1'.*ConvTranspose has no integer kernel",
            "float32",
        ),
    ],
)
def test_what_has_no_kernel_is_refused_with_a_way_out(
    tmp_path: Path, model: nn.Module, core: str, message: str, way_out: str
) -> None:
    path = write(model, (1, 4, 6, 6), tmp_path / "refused.onnx")
    samples = {"input": inputs((1, 4, 6, 6), 1, seed=2)}
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        run_arrays(device(core), path, describe(path), samples)
    assert way_out in caught.value.hint
    assert caught.value.exit_code == 5
