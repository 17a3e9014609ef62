"""Scratch that is too small is caught after the run, whatever kernels wrote beyond it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.cli import execute
from edgeprune.devices.microcontroller.device import MicrocontrollerDevice
from edgeprune.devices.protocol import ModelAnswer, Request, file_of
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError
from edgeprune.export import cmsis_nn, lowering
from edgeprune.export.kernel import Kernel
from edgeprune.export.onnx_graph import export
from edgeprune.export.quantization import quantize
from edgeprune.records import Microcontroller

pytestmark = pytest.mark.microcontroller
SHAPE = (1, 6, 9, 9)
CORES = ["cortex_m4", pytest.param("cortex_m55", marks=pytest.mark.qemu)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scratch")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(6, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8))
    export(network.eval(), (torch.zeros(SHAPE),), folder / "float.onnx", opset=20)
    samples = np.random.default_rng(1).standard_normal((16, *SHAPE[1:])).astype(np.float32)
    quantize(folder / "float.onnx", folder / "net.onnx", [samples])
    return folder / "net.onnx"


def emulate(model: Path, core: str, **changes: object) -> ModelAnswer:
    spec = load_spec(core)
    assert isinstance(spec.microcontroller, Microcontroller)
    chip = spec.microcontroller.model_copy(update=changes)
    device = MicrocontrollerDevice(spec.model_copy(update={"microcontroller": chip}))
    return device.ask(Request(task="time", models=(file_of("net", model),))).models[0]


@pytest.fixture
def undersized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel is given less than it needs: 16 bytes of the 280 for DSP, 256 of 4464 for MVE."""
    full = lowering.lower

    def less(*arguments: object) -> Kernel:
        kernel = full(*arguments)  # type: ignore[arg-type]
        size = max(0, kernel.scratch - (256 if kernel.scratch > 1024 else 16))
        return Kernel(**{**vars(kernel), "scratch": size})

    monkeypatch.setattr("edgeprune.export.c_source.lower", less)


@pytest.mark.parametrize("core", CORES)
def test_an_undersized_scratch_breaks_the_canary(model: Path, core: str, undersized) -> None:
    with pytest.raises(DeviceError, match="net: a canary was overwritten in sample 0") as caught:
        emulate(model, core)
    assert "wrote beyond its memory" in str(caught.value)
    assert "outputs and counts are not used" in caught.value.hint
    assert caught.value.exit_code == 3


def test_the_command_ends_with_the_exit_code_of_a_device(
    model: Path, undersized, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(execute(["profile", str(model), "--device", "cortex_m4", "--json"]))
    said = capsys.readouterr()
    assert ended.value.code == 3
    assert "a canary was overwritten in sample 0" in said.err
    assert said.out == ""


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (1000, "a canary was overwritten in sample 0"),  # as for DSP with more channels
        (0, "a kernel of CMSIS-NN refused its arguments in sample 0"),  # as for DSP with these
    ],
)
def test_vector_kernels_need_the_scratch_that_is_theirs(
    model: Path, monkeypatch: pytest.MonkeyPatch, given: int, reason: str
) -> None:
    assert emulate(model, "cortex_m55").footprint is not None
    monkeypatch.setattr(cmsis_nn, "depthwise_scratch", lambda *_: given)
    with pytest.raises(DeviceError, match=reason) as caught:
        emulate(model, "cortex_m55")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("core", CORES)
def test_the_high_water_mark_is_within_the_scratch(model: Path, core: str) -> None:
    footprint = emulate(model, core).footprint
    assert footprint is not None
    assert 0 < footprint.scratch_used_bytes <= footprint.scratch_bytes


@pytest.mark.parametrize("core", CORES)
def test_a_tree_of_cmsis_nn_is_taken_from_the_profile(
    model: Path, tmp_path: Path, core: str
) -> None:
    tree = tmp_path / "CMSIS-NN"  # as it is checked out, without CMSIS-Core beside it
    shutil.copytree(cmsis_nn.find(None), tree)
    ours, theirs = (emulate(model, core, cmsis=place) for place in (None, str(tree)))
    assert ours.values == theirs.values
    marked = next((tree / "Source").rglob("arm_depthwise_conv_s8_opt.c"))
    marked.write_text(marked.read_text() + "\n#error from the profile's tree\n")
    if core == "cortex_m55":  # the kernels for DSP are edgeprune's own
        with pytest.raises(DeviceError, match="from the profile's tree"):
            emulate(model, core, cmsis=str(tree))
    else:
        assert emulate(model, core, cmsis=str(tree)).values == ours.values


def test_a_tree_that_is_none_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is not a CMSIS-NN tree"):
        emulate(model, "cortex_m7", cmsis=str(tmp_path), target="scalar")
