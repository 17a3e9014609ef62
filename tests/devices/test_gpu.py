"""Which GPU provider answers, and what stands in where none does."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.cli import execute
from edgeprune.devices import gpu
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.opening import obstacle_to, open_device, stand_in
from edgeprune.devices.protocol import Request, file_of
from edgeprune.devices.roofline import RooflineDevice
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError
from edgeprune.export.fragments import smallest_model
from edgeprune.export.onnx_graph import describe
from edgeprune.profiler.layers import profile_model
from edgeprune.records import DeviceSpec
from edgeprune.verify.inference import numeric_device, run_arrays

CPU = "CPUExecutionProvider"


@pytest.fixture(autouse=True)
def this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for GPUs with this Python, whatever the user's environment names; forget answers."""
    monkeypatch.delenv(gpu.PYTHON, raising=False)
    monkeypatch.setattr(gpu, "_found", {})


@pytest.fixture
def spec() -> DeviceSpec:
    return load_spec("edge_gpu")


def without(python: Path, program: str) -> Path:
    """Write an interpreter that only runs a shell program."""
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    return python


# ------------------------------------------------------------------------------ the first that runs


def test_a_provider_that_really_runs_is_taken(spec) -> None:
    """The CPU provider stands for a GPU's: it is what the onnxruntime here has."""
    found = gpu.find(spec.model_copy(update={"providers": ("CUDAExecutionProvider", CPU)}))
    assert found.device is not None
    assert found.device.spec.providers == (CPU,)
    assert found.device.spec.figure == "measured"
    assert found.refused == (("CUDAExecutionProvider", "not in this onnxruntime"),)


def test_the_first_one_wins(spec) -> None:
    found = gpu.find(spec.model_copy(update={"providers": (CPU, "CUDAExecutionProvider")}))
    assert (found.device is not None, found.refused) == (True, ())


def test_only_a_missing_provider_is_passed_over(spec, monkeypatch) -> None:
    """A provider that onnxruntime lists but cannot start falls back to the CPU: not taken."""
    monkeypatch.setattr(gpu, "runtime_providers", lambda _: ("CUDAExecutionProvider", CPU))
    found = gpu.find(spec)
    assert found.device is None
    reasons = dict(found.refused)
    assert "CPUExecutionProvider, not on CUDAExecutionProvider" in reasons["CUDAExecutionProvider"]
    assert reasons["TensorrtExecutionProvider"] == "not in this onnxruntime"


def test_tensorrt_leaves_the_rest_to_cuda(spec, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        gpu, "runtime_providers", lambda _: ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    )
    monkeypatch.setattr(gpu, "_run_something", lambda device: asked.append(device.spec.providers))
    assert gpu.find(spec).device is not None
    assert asked == [("TensorrtExecutionProvider", "CUDAExecutionProvider")]


def test_it_is_asked_once(spec, monkeypatch) -> None:
    before = gpu.find(spec)
    monkeypatch.setattr(gpu, "runtime_providers", lambda _: pytest.fail("asked again"))
    assert gpu.find(spec) is before


def test_what_only_tests_the_path_is_not_listed_as_measured(monkeypatch, capfd) -> None:
    rows = [(load_spec(name), None) for name in ("webgpu_software", "mobile_cpu")]
    monkeypatch.setattr("edgeprune.devices.opening.roster", lambda: rows)
    monkeypatch.setenv("COLUMNS", "200")
    assert execute(["devices"]) == 0
    first, second = (
        line
        for line in capfd.readouterr().err.splitlines()
        if line.strip().startswith(("webgpu_software", "mobile_cpu"))
    )
    assert "functional only" in first
    assert "measured" not in first
    assert "measured" in second
    assert "ready; times of this device mean nothing" in first  # usable, whatever its figures say
    assert second.rstrip().endswith("ready")


# ------------------------------------------------------------------------------ no GPU: the estimate


@pytest.mark.parametrize(
    ("program", "why"),
    [(None, "its Python does not exist"), ("exit 1", "onnxruntime does not start")],
)
def test_without_a_gpu_the_roofline_answers_and_says_so(
    spec, tmp_path: Path, monkeypatch, program, why
) -> None:
    python = tmp_path / "python"
    if program:
        without(python, program)
    monkeypatch.setenv(gpu.PYTHON, str(python))
    assert why in gpu.find(spec).why
    warnings: list[str] = []
    device = open_device("edge_gpu", warnings.append)
    assert isinstance(device, RooflineDevice)
    assert (device.spec.name, device.spec.figure) == ("edge_gpu", "estimated")
    assert device.spec.exact
    (warning,) = warnings
    assert "no GPU answers here" in warning
    assert "roofline estimate of Jetson Orin Nano 8GB" in warning
    assert str(tmp_path) not in device.spec.note, "it is shipped in verdict.json"
    assert obstacle_to(spec) is None
    assert stand_in(spec).title == "roofline estimate of Jetson Orin Nano 8GB"


def test_the_onnxruntime_of_this_project_has_no_gpu(spec) -> None:
    found = gpu.find(spec)
    assert found.device is None
    assert found.why == "Tensorrt, CUDA, OpenVINO, CoreML, WebGpu: not in this onnxruntime"


def test_where_no_estimate_can_stand_in_it_is_an_obstacle(spec, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DeviceError, match="its Python does not exist") as caught:
        open_device("webgpu_software")
    assert (caught.value.exit_code, caught.value.hint) == (3, "make webgpu")
    bare = spec.model_copy(update={"roofline": None})
    assert "not in this onnxruntime" in obstacle_to(bare).why
    with pytest.raises(DeviceError, match="no GPU answers"):
        gpu.make(bare)


def test_the_estimate_computes_outputs_on_this_machine(spec) -> None:
    numeric = numeric_device(gpu.make(spec))
    assert isinstance(numeric, LocalDevice)
    assert numeric.spec.providers == (CPU,)


def test_where_the_python_is(spec, monkeypatch, tmp_path: Path) -> None:
    assert gpu.python_of(spec) == Path(sys.executable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    software = load_spec("webgpu_software")
    assert gpu.python_of(software) == tmp_path / "edgeprune/webgpu/python"
    monkeypatch.setenv(gpu.PYTHON, "~/gpu/bin/python")
    assert gpu.python_of(software) == Path.home() / "gpu/bin/python"


# ----------------------------------------------------------------------- WebGPU on software Vulkan


@pytest.fixture
def software() -> gpu.GpuDevice:
    spec = load_spec("webgpu_software")
    if not gpu.python_of(spec).exists():
        pytest.skip("NOT TESTED: WebGPU on software Vulkan is missing; `make webgpu` makes it")
    device = gpu.make(spec)
    assert isinstance(device, gpu.GpuDevice)
    return device


@pytest.mark.webgpu
@pytest.mark.slow
def test_webgpu_gives_layers_their_gpu_times(software, exported) -> None:
    request = Request(
        task="layers", models=(file_of("m", exported("residual")),), warmup_runs=0, rounds=3
    )
    answer = software.ask(request)
    (model,) = answer.models
    assert {node.provider for node in model.nodes} == {"WebGpuExecutionProvider"}
    assert all(len(node.values) == 3 for node in model.nodes)
    assert len(model.runs) == 3
    convolutions = [node for node in model.nodes if node.operator == "Conv"]
    assert len(convolutions) == 6
    assert all(min(node.values) > 0 for node in convolutions)
    assert answer.environment.facts["times"] == "meaningless"
    assert "llvmpipe" in answer.environment.facts["accelerator"]
    assert answer.environment.facts["io_binding"].startswith("no")


@pytest.mark.webgpu
@pytest.mark.slow
def test_webgpu_profile_and_outputs(software, exported, local) -> None:
    import numpy as np

    profile = profile_model(software, exported("residual"), name="r", processes=1, rounds=5)
    rows = {row.name: row for row in profile.layers}
    assert {"stem", "a1", "a2", "b1", "b2", "project", "head"} <= rows.keys()
    assert all(rows[name].cost > 0 for name in ("stem", "a1", "a2", "b1", "b2", "project"))
    assert profile.layout > 0, "the changes to the layout of the GPU are a row of their own"
    columns = {
        info.name: np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
        for info in onnx.load(exported("residual")).graph.input
    }
    path = exported("residual")
    here, there = (run_arrays(d, path, describe(path), columns) for d in (local, software))
    assert np.abs(here - there).max() < 1e-4 * max(1.0, np.abs(here).max())


@pytest.mark.webgpu
@pytest.mark.slow
def test_software_vulkan_is_no_gpu(software, spec, monkeypatch) -> None:
    monkeypatch.setenv(gpu.PYTHON, str(software.python))
    found = gpu.find(spec)
    assert found.device is None
    assert "is software, whose times mean nothing" in dict(found.refused)["WebGpuExecutionProvider"]


@pytest.mark.webgpu
@pytest.mark.parametrize("task", ["time", "layers", "run"])
def test_a_fall_back_to_the_cpu_is_an_error(software, tmp_path: Path, task) -> None:
    """The same onnxruntime without a Vulkan driver runs the model on the CPU after a line of text."""
    bare = Path(software.python).parent / "venv/bin/python"
    python = without(tmp_path / "python", f'VK_DRIVER_FILES=/nowhere exec {bare} "$@"')
    model = tmp_path / "m.onnx"
    model.write_bytes(smallest_model())
    device = gpu.GpuDevice(software.spec, str(python))
    with pytest.raises(
        DeviceError, match="session runs on CPUExecutionProvider, not on WebGpuExecutionProvider"
    ) as caught:
        device.ask(Request(task=task, models=(file_of("m", model),)))
    assert caught.value.exit_code == 3


@pytest.mark.webgpu
@pytest.mark.slow
@pytest.mark.parametrize("task", ["time", "layers"])
def test_a_heavy_layer_left_to_the_cpu_is_an_error(software, tmp_path: Path, task) -> None:
    """WebGPU has no float64: onnxruntime leaves such a layer to the CPU and says nothing."""
    values = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, (4, 4)) for n in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "x"], ["y"], name="product")
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    path = tmp_path / "m.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    with pytest.raises(DeviceError, match=r"node product \(MatMul\) runs on the CPU"):
        software.ask(Request(task=task, models=(file_of("m", path),)))
