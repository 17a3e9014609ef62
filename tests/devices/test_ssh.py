from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgeprune.devices.opening import device_for, obstacle_to, obstacles_to, open_device
from edgeprune.devices.protocol import ModelFile, Request, file_of
from edgeprune.devices.remote import RemoteDevice
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError, UnsupportedModelError

pytestmark = pytest.mark.ssh

SLEEPS = "import time; time.sleep(60)"


def request(*files: Path, **fields) -> Request:
    models = tuple(file_of(file.stem, file) for file in files)
    quick = {"task": "time", "rounds": 3, "warmup_runs": 1, "warmup_seconds": 0.0}
    return Request(**{**quick, "models": models, **fields})


# ------------------------------------------------------------------------------- what a host answers


def test_a_host_answers_all_three_tasks(sshd, sent, build, exported, tmp_path: Path) -> None:
    device = device_for(sshd.spec())
    answer = device.ask(request(exported("mlp"), exported("plain"), rounds=4, inner=2))
    assert [model.name for model in answer.models] == ["mlp", "plain"]
    assert all(len(model.values) == 8 for model in answer.models)

    layers = device.ask(request(exported("plain"), task="layers")).models[0]
    assert any("Conv" in str(node.operator) for node in layers.nodes)
    assert {len(node.values) for node in layers.nodes} == {3}

    images = torch.randn(3, 3, 8, 8)
    np.savez(tmp_path / "in.npz", input=images.numpy())
    paths = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npy")}
    device.ask(request(exported("plain"), task="run", **paths))
    with torch.inference_mode():
        expected = build("plain")[0](images).numpy()
    np.testing.assert_allclose(np.load(paths["outputs"]), expected, atol=1e-4)

    # worker and two models once each, a request for each question, one set of inputs
    assert len(sent) == 3 + 3 + 1
    assert len([name for name in sent if name.endswith(".onnx")]) == 2
    stored = list(next(sshd.scratch.iterdir()).glob("[!.]*"))  # onnxruntime leaves a .ses
    assert len(stored) == 3, "requests, answers and data are gone once they are read"
    del device
    sshd.wait_until_clean()


def test_the_environment_names_the_host_and_decides_nothing_by_it(sshd, local, exported) -> None:
    there = device_for(sshd.spec()).ask(request(exported("mlp"))).environment
    here = local.ask(request(exported("mlp"))).environment
    assert (there.facts["transport"], there.facts["host"]) == ("ssh", "board")
    assert there.differences(here) == []


def test_the_profile_decides_the_session(sshd, exported) -> None:
    spec = sshd.spec().model_copy(update={"threads": 2, "graph_optimization": "disabled"})
    facts = device_for(spec).ask(request(exported("mlp"))).environment.facts
    assert (facts["threads"], facts["graph_optimization"]) == ("2", "disabled")


def test_equal_content_goes_once_whatever_its_name(sshd, sent, exported, tmp_path: Path) -> None:
    copy = tmp_path / 'it\'s "another" $(touch here); `name`\n.onnx'
    copy.write_bytes(exported("mlp").read_bytes())
    answer = device_for(sshd.spec()).ask(request(exported("mlp"), copy))
    assert answer.models[1].name == copy.stem
    assert len([name for name in sent if name.endswith(".onnx")]) == 1


def test_a_changed_file_goes_again(sshd, sent, exported, tmp_path: Path) -> None:
    path, device = tmp_path / "model.onnx", device_for(sshd.spec())
    for name in ("mlp", "plain"):
        path.write_bytes(exported(name).read_bytes())
        device.ask(request(path))
    assert len({name for name in sent if name.endswith(".onnx")}) == 2


def test_text_of_the_login_is_not_an_answer(start_sshd, exported) -> None:
    noisy = "echo Welcome; printf 'no end of line'; exec sh -c \"$SSH_ORIGINAL_COMMAND\""
    sshd = start_sshd(f"ForceCommand {noisy}")
    assert device_for(sshd.spec()).ask(request(exported("mlp"))).models


def test_the_environment_of_the_profile_reaches_the_worker(sshd, exported, worker) -> None:
    worker("import os; raise RuntimeError(os.environ['LD_TALE'] + os.environ['TMPDIR'])")
    device = device_for(sshd.spec())
    spec = device.spec.model_copy(
        update={"ssh": device.spec.ssh.model_copy(update={"environment": {"LD_TALE": "a 'b' $c"}})}
    )
    with pytest.raises(DeviceError, match=r"a 'b' \$c") as caught:
        device_for(spec).ask(request(exported("mlp")))
    assert str(sshd.scratch) in caught.value.what, "the worker's own files end with the folder"


# ------------------------------------------------------------------------------------ bad questions


def test_a_model_that_the_runtime_refuses_keeps_the_connection(sshd, sent, exported) -> None:
    garbage = sshd.folder / "garbage.onnx"
    garbage.write_bytes(b"garbage")
    device = device_for(sshd.spec())
    with pytest.raises(UnsupportedModelError, match=r"refuses garbage: Protobuf parsing failed"):
        device.ask(request(garbage))
    assert device.ask(request(exported("mlp"))).models
    assert len([name for name in sent if name.endswith(".py")]) == 1


def test_a_model_without_fixed_shape_is_unsupported(sshd, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(UnsupportedModelError, match="no fixed shape"):
        device_for(sshd.spec()).ask(request(tmp_path / "free.onnx"))


def test_a_model_that_is_not_there(sshd) -> None:
    missing = Request(task="time", models=(ModelFile(name="m", file="/nowhere/m.onnx"),))
    with pytest.raises(FileNotFoundError):
        device_for(sshd.spec()).ask(missing)
    sshd.wait_until_clean()


def test_open_device_connects(sshd, exported) -> None:
    device = open_device(str(sshd.profile()))
    assert isinstance(device, RemoteDevice)
    assert device.ask(request(exported("mlp"))).models


@pytest.mark.parametrize("name", ["raspberry_pi_5", "raspberry_pi_4", "jetson_orin_nano"])
def test_the_shipped_boards_wait_for_a_host(name: str, monkeypatch) -> None:
    monkeypatch.delenv("EDGEPRUNE_SSH_HOST", raising=False)
    spec = load_spec(name)
    assert obstacle_to(spec).why == "no host is named"
    assert f"copy of {name}.toml" in obstacle_to(spec).help
    assert spec.ssh.board


# ------------------------------------------------------------------- models of more than one file


@pytest.fixture
def scattered(exported, tmp_path: Path) -> Path:
    """The model `plain` with its weights in files beside it, one of them in a folder."""
    model = onnx.load(exported("plain"))
    folder = tmp_path / "scattered"
    (folder / "more weights").mkdir(parents=True)
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    for number, tensor in enumerate(floats):
        where = "weights.bin" if number % 2 else "more weights/odd's.bin"
        onnx.external_data_helper.set_external_data(tensor, where)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_weights_in_other_files_go_along(sshd, sent, build, scattered, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 8, 8)
    np.savez(tmp_path / "in.npz", input=images.numpy())
    paths = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npy")}
    device = device_for(sshd.spec())
    for _ in range(2):
        device.ask(request(scattered, task="run", **paths))
    with torch.inference_mode():
        expected = build("plain")[0](images).numpy()
    np.testing.assert_allclose(np.load(paths["outputs"]), expected, atol=1e-4)
    assert len([name for name in sent if name.endswith(".bin")]) == 2
    device.close()
    sshd.wait_until_clean()


def test_weights_that_are_missing_or_outside(sshd, scattered) -> None:
    device = device_for(sshd.spec())
    (scattered.parent / "weights.bin").unlink()
    with pytest.raises(UnsupportedModelError, match=r"missing: weights\.bin"):
        device.ask(request(scattered))
    model = onnx.load(scattered, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../../etc/passwd" if entry.key == "location" else entry.value
    scattered.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"outside of its folder: \.\./"):
        device.ask(request(scattered))


# ------------------------------------------------------------------------------- the command line


def edgeprune(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeprune", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_profile_over_ssh(sshd, exported) -> None:
    done = edgeprune("profile", exported("plain"), "--device", sshd.profile(), "--json")
    assert done.returncode in (0, 4), done.stderr
    found = json.loads(done.stdout)
    # tests that run beside it may keep so short a run from settling, which it must then say
    assert (done.returncode == 4) is (found["stopped"] == "unstable")
    assert (found["kind"], found["unit"], found["device"]) == ("measured", "us", "loopback")
    assert found["environment"]["facts"]["host"] == "board"
    assert 0 < found["coverage"] <= 1
    assert any(layer["cost"] > 0 for layer in found["layers"])
    sshd.wait_until_clean()


def test_profile_of_a_host_that_is_off(sshd, exported) -> None:
    sshd.cut()
    done = edgeprune("profile", exported("plain"), "--device", sshd.profile(), "--json")
    assert (done.returncode, done.stdout) == (3, "")
    said = " ".join(done.stderr.split())
    assert "device loopback cannot be used here: host board cannot be reached" in said
    assert "Traceback" not in done.stderr


def test_several_hosts_are_asked_at_the_same_time(start_sshd) -> None:
    slow = start_sshd('ForceCommand sleep 3; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    began = time.monotonic()
    found = obstacles_to([slow.spec()] * 4)
    assert found == [None] * 4
    assert time.monotonic() - began < 4 * 3
