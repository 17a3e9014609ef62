from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgeprune.devices import local as module
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.processes import Done
from edgeprune.devices.protocol import Request, file_of
from edgeprune.errors import DeadlineError, DeviceError, UnsupportedModelError


def request(*files: Path, **fields) -> Request:
    models = tuple(file_of(file.stem, file) for file in files)
    return Request(
        **{
            "task": "time",
            "models": models,
            "rounds": 3,
            "warmup_runs": 1,
            "warmup_seconds": 0.0,
            **fields,
        }
    )


def test_this_machine_answers(local, exported) -> None:
    answer = local.ask(request(exported("mlp"), exported("plain"), rounds=4, inner=2))
    assert [model.name for model in answer.models] == ["mlp", "plain"]
    assert all(len(model.values) == 8 for model in answer.models)
    assert answer.environment.facts["threads"] == "1"
    assert not answer.environment.differences(local.ask(request(exported("mlp"))).environment)


def test_the_profile_decides_the_session(local_spec, exported) -> None:
    spec = local_spec.model_copy(
        update={"threads": 2, "graph_optimization": "disabled", "affinity": (0,)}
    )
    facts = LocalDevice(spec).ask(request(exported("mlp"))).environment.facts
    assert (facts["threads"], facts["graph_optimization"]) == ("2", "disabled")
    assert facts["affinity"] in {"0", ",".join(map(str, sorted(os.sched_getaffinity(0))))}


def test_optimisation_is_really_applied(local, local_spec, exported) -> None:
    def operators(device: LocalDevice) -> list[str | None]:
        answer = device.ask(request(exported("plain"), task="layers"))
        return [node.operator for node in answer.models[0].nodes]

    plain = LocalDevice(local_spec.model_copy(update={"graph_optimization": "disabled"}))
    assert "Relu" in operators(plain)
    assert "Relu" not in operators(local)


def test_outputs_come_back_by_file(local, build, exported, tmp_path: Path) -> None:
    images = torch.randn(3, 3, 8, 8)
    np.savez(tmp_path / "in.npz", input=images.numpy())
    paths = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npy")}
    local.ask(request(exported("plain"), task="run", **paths))
    with torch.inference_mode():
        np.testing.assert_allclose(
            np.load(paths["outputs"]), build("plain")[0](images).numpy(), atol=1e-4
        )


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 64])
@pytest.mark.parametrize("task", ["time", "layers"])
def test_a_file_that_is_no_model_is_unsupported(
    local, tmp_path: Path, content: bytes, task: str
) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(
        UnsupportedModelError, match="onnxruntime on mobile_cpu refuses broken: "
    ) as caught:
        local.ask(request(tmp_path / "broken.onnx", task=task))
    assert caught.value.exit_code == 5
    assert "Traceback" not in str(caught.value)


MANY_LINES = """Traceback (most recent call last):
  File "worker.py", line 312, in outputs
    answer = session.run(None, feeds)[0]
onnxruntime.capi.onnxruntime_pybind11_state.{name}: [ONNXRuntimeError] : 6 : {name} : Non-zero \
status code returned while running Gather node.
Status Message: indices element out of data bounds, idx=5
 must be within the inclusive range [-3,2]
"""


@pytest.mark.parametrize("name", ["RuntimeException", "InvalidArgument", "Fail"])
def test_what_the_runtime_says_in_several_lines_is_the_models_fault(
    local, exported, name: str
) -> None:
    done = Done(1, "", "a warning\n" + MANY_LINES.format(name=name))
    found = module.failure(local.spec, request(exported("mlp")), done, "")
    assert isinstance(found, UnsupportedModelError)
    assert found.what.startswith("onnxruntime on mobile_cpu refuses mlp: Non-zero status code")
    assert found.what.endswith("idx=5 must be within the inclusive range [-3,2]")


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "words"),
    [
        (1, "ValueError: one\nand more\n", UnsupportedModelError, "mlp: one and more"),
        (1, "MemoryError\n\n", UnsupportedModelError, "more memory"),
        (1, "numpy._ArrayMemoryError: no\nroom\n", UnsupportedModelError, "has: no room"),
        (1, "RuntimeError: it runs on A,\n  not on B\n", DeviceError, "A, not on B"),
        (1, "RuntimeError: " + "x" * 9999, DeviceError, r"x \.\.\.$"),
        (1, "ValueError: first\nTraceback ...\nOSError: then\nmore", DeviceError, "OSError: then"),
        (-9, "ValueError: ignored\n", UnsupportedModelError, "ignored"),
        (-11, "Error: of old\nsomething else\n", DeviceError, "ended by signal 11"),
        (3, "nothing known\n", DeviceError, "nothing known"),
    ],
)
def test_the_end_of_a_worker_is_told_by_its_last_error(
    local, exported, code: int, stderr: str, kind: type[Exception], words: str
) -> None:
    found = module.failure(local.spec, request(exported("mlp")), Done(code, "", stderr), "")
    assert type(found) is kind
    assert re.search(words, found.what)
    assert len(found.what) < 800


def test_a_model_that_fails_on_its_inputs_is_not_the_devices_fault(local, tmp_path: Path) -> None:
    table = helper.make_tensor("t", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])], [table],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=np.array([1, 7]))
    paths = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npy")}
    with pytest.raises(UnsupportedModelError, match="out of data bounds") as caught:
        local.ask(request(tmp_path / "m.onnx", task="run", **paths))
    assert caught.value.exit_code == 5


def test_a_missing_model_is_named(local, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="nowhere"):
        local.ask(request(tmp_path / "nowhere.onnx"))


def model_with(operator: str, tmp_path: Path, shape: list[object], domain: str = "") -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], domain=domain)], "g", values[:1], values[1:]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("test.domain", 1)]
    path = tmp_path / f"{operator}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_a_dynamic_shape_is_unsupported(local, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="input 'x' has no fixed shape"):
        local.ask(request(model_with("Relu", tmp_path, ["batch", 3])))


def test_a_dynamic_batch_cannot_be_run_either(local, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((4, 3), np.float32))
    paths = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npy")}
    with pytest.raises(UnsupportedModelError):
        local.ask(request(model_with("Relu", tmp_path, ["batch", 3]), task="run", **paths))
    assert not (tmp_path / "out.npy").exists()


def test_an_operator_that_the_runtime_does_not_know_is_unsupported(local, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="Fancy"):
        local.ask(request(model_with("Fancy", tmp_path, [1, 3], "test.domain")))


def test_what_a_refusal_says_is_what_is_wrong(local, tmp_path: Path) -> None:
    path = model_with("Relu", tmp_path, [1, 3])
    model = onnx.load(path)
    model.opset_import[0].version = 99
    onnx.save(model, path)
    with pytest.raises(UnsupportedModelError) as caught:
        local.ask(request(path))
    assert "onnxruntime_src" not in caught.value.what
    assert "Opset 99" in caught.value.what
    assert caught.value.hint == "export the model for an opset that this onnxruntime supports"


def test_a_model_that_needs_more_memory_than_there_is(local, tmp_path: Path) -> None:
    path = model_with("Relu", tmp_path, [10**6, 10**7])
    with pytest.raises(UnsupportedModelError, match="needs more memory than mobile_cpu has"):
        local.ask(request(path))


def test_a_provider_that_is_missing_is_a_fault_of_the_device(local_spec, exported) -> None:
    device = LocalDevice(local_spec.model_copy(update={"providers": ("CUDAExecutionProvider",)}))
    with pytest.raises(DeviceError, match="CUDAExecutionProvider") as caught:
        device.ask(request(exported("mlp")))
    assert caught.value.exit_code == 3
    assert "doctor" in caught.value.hint


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        ("import time; time.sleep(60)", DeadlineError, "no answer within"),
        ("import os; os.kill(os.getpid(), 9)", DeviceError, "ended by signal 9"),
        ("raise SystemExit(3)", DeviceError, "no message"),
        ("raise MemoryError('too large')", UnsupportedModelError, "too large"),
        ("pass", DeviceError, "unreadable answer"),
        ("import sys; open(sys.argv[2], 'w').write('{')", DeviceError, "unreadable answer"),
        ("import sys; open(sys.argv[2], 'w').write('{}')", DeviceError, "unreadable answer"),
    ],
)
def test_a_worker_that_fails(
    local, exported, tmp_path: Path, monkeypatch, program, error, message
) -> None:
    (tmp_path / "worker.py").write_text(program)
    monkeypatch.setattr(module, "WORKER", tmp_path / "worker.py")
    monkeypatch.setattr(module, "GRACE_SECONDS", -1.0)
    with pytest.raises(error, match=message) as caught:
        local.ask(request(exported("mlp"), deadline_seconds=2.0))
    assert caught.value.exit_code == error.exit_code


def test_nothing_of_this_process_leaks_into_the_worker(
    local, exported, tmp_path: Path, monkeypatch
) -> None:
    """A module beside the user's shell or on PYTHONPATH must not stand in for numpy."""
    (tmp_path / "numpy.py").write_text("raise ImportError('the wrong numpy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert local.ask(request(exported("mlp"))).models


def test_the_scratch_folder_is_gone_afterwards(
    local, exported, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(module.tempfile, "tempdir", None)
    local.ask(request(exported("mlp"), task="layers"))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DeviceError):
        local.ask(request(exported("mlp")))
    assert list(tmp_path.glob("edgeprune-*")) == []
