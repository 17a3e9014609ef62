from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgeprune.devices import remote
from edgeprune.devices.connection import Connection
from edgeprune.devices.opening import device_for, obstacle_to, obstacles_to, open_device
from edgeprune.devices.protocol import ModelFile, Request, file_of
from edgeprune.devices.remote import RemoteDevice
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeadlineError, DeviceError, UnsupportedModelError, UsageError

pytestmark = pytest.mark.ssh

SLEEPS = "import time; time.sleep(60)"


def request(*files: Path, **fields) -> Request:
    models = tuple(file_of(file.stem, file) for file in files)
    quick = {"task": "time", "rounds": 3, "warmup_runs": 1, "warmup_seconds": 0.0}
    return Request(**{**quick, "models": models, **fields})


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """The names of the files that go to the device."""
    names: list[str] = []
    put = Connection.put

    def recorded(self: Connection, name: str, content: bytes | Path) -> None:
        names.append(name)
        put(self, name, content)

    monkeypatch.setattr(Connection, "put", recorded)
    return names


@pytest.fixture
def worker(tmp_path: Path, monkeypatch) -> Callable[[str], None]:
    """Put a program in the place of the worker."""

    def replace(program: str) -> None:
        (tmp_path / "other_worker.py").write_text(program)
        monkeypatch.setattr(remote, "WORKER", tmp_path / "other_worker.py")

    return replace


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
    with pytest.raises(UnsupportedModelError, match=r"refuses garbage: .*garbage\.onnx"):
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


# ---------------------------------------------------------------------------------- ways not to get in


def refusal(spec) -> tuple[str, str]:
    """Return message and hint of a device that cannot be used; both ways tell the same."""
    obstacle = obstacle_to(spec)
    assert obstacle is not None
    return obstacle.why, obstacle.help


def test_an_unknown_host_key_is_refused(sshd) -> None:
    (sshd.folder / "known_hosts").unlink()
    why, help_ = refusal(sshd.spec())
    assert "host board: its host key is not known" in why
    assert help_.endswith(f"ssh -F '{sshd.config}' board true")
    assert not (sshd.folder / "known_hosts").exists()


def test_a_configuration_that_trusts_everybody_changes_nothing(sshd) -> None:
    (sshd.folder / "known_hosts").unlink()
    sshd.config.write_text(sshd.config.read_text() + "  StrictHostKeyChecking no\n")
    assert "its host key is not known" in refusal(sshd.spec())[0]


def test_a_changed_host_key_is_refused(sshd) -> None:
    sshd.new_key("other_key")
    sshd.trust("other_key")
    why, help_ = refusal(sshd.spec())
    assert "its host key has changed" in why
    assert help_.startswith("find out why first")


def test_a_wrong_key_is_refused_without_a_question(sshd) -> None:
    (sshd.folder / "authorized_keys").write_text("")
    why, help_ = refusal(sshd.spec())
    assert "Permission denied" in why
    assert "ssh-copy-id" in help_


def test_a_host_that_is_off(sshd) -> None:
    sshd.cut()
    sshd.process.wait()
    began = time.monotonic()
    why, help_ = refusal(sshd.spec())
    assert "host board cannot be reached" in why
    assert "Connection refused" in why
    assert help_ == f"try ssh -F '{sshd.config}' board true"
    assert time.monotonic() - began < 5
    with pytest.raises(DeviceError, match="Connection refused") as caught:
        device_for(sshd.spec()).ask(Request(task="time", models=()))
    assert caught.value.exit_code == 3


def test_a_host_that_says_nothing(sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        sshd.config.write_text(sshd.config.read_text().replace(f"{sshd.port}", f"{port}"))
        began = time.monotonic()
        why, _ = refusal(sshd.spec(connect_timeout_seconds=1))
        assert "timed out" in why
        assert time.monotonic() - began < 5


def test_a_host_that_has_no_name(sshd) -> None:
    why, _ = refusal(sshd.spec(host="no-such-host.invalid"))
    assert "cannot be reached" in why
    assert "no-such-host.invalid" in why


def test_a_host_without_that_python(sshd) -> None:
    why, help_ = refusal(sshd.spec(python="no python"))
    assert "host board has no no python" in why
    assert "`python` under [ssh]" in help_


def test_a_python_without_the_packages_tells_the_command(sshd, tmp_path: Path) -> None:
    made = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")]
    subprocess.run(made, check=True)
    bare = tmp_path / "bare" / "bin" / "python"
    why, help_ = refusal(sshd.spec(python=str(bare)))
    assert "No module named 'numpy'" in why
    assert f"{bare} -m pip install numpy onnxruntime" in help_
    sshd.wait_until_clean()


def test_a_provider_that_the_host_lacks(sshd) -> None:
    spec = sshd.spec().model_copy(update={"providers": ("TensorrtExecutionProvider",)})
    assert "onnxruntime on host board has no TensorrtExecutionProvider" in refusal(spec)[0]


def test_another_board_is_not_measured_under_this_name(sshd) -> None:
    why, help_ = refusal(sshd.spec(board="Raspberry Pi 5"))
    assert "this profile is for 'Raspberry Pi 5'" in why
    assert "copy the profile" in help_


def test_a_scratch_folder_that_cannot_be(sshd) -> None:
    assert "no scratch folder" in refusal(sshd.spec(folder="/nowhere/at/all"))[0]


def test_nobody_named_and_named_by_the_environment(sshd, monkeypatch, exported) -> None:
    monkeypatch.delenv("EDGEPRUNE_SSH_HOST", raising=False)
    spec = sshd.spec(host="")
    why, help_ = refusal(spec)
    assert why == "no host is named"
    assert "EDGEPRUNE_SSH_HOST=" in help_
    with pytest.raises(DeviceError, match="no host is named"):
        device_for(spec)
    monkeypatch.setenv("EDGEPRUNE_SSH_HOST", "board")
    assert obstacle_to(spec) is None
    monkeypatch.setenv("EDGEPRUNE_SSH_HOST", "-oProxyCommand=touch /tmp/owned")
    with pytest.raises(UsageError, match="not the name of a host"):
        device_for(spec)


# ---------------------------------------------------------------------------------- ends half-way


def test_too_late_an_answer_is_a_deadline(sshd, exported, worker) -> None:
    worker(SLEEPS)
    device = device_for(sshd.spec(grace_seconds=0.1))
    with pytest.raises(DeadlineError, match="no answer within") as caught:
        device.ask(request(exported("mlp"), deadline_seconds=0.1))
    assert caught.value.exit_code == 124
    assert sleepers(sshd) == []


def test_an_agent_that_hangs_is_given_up(sshd, exported, worker, monkeypatch) -> None:
    """The limit of this side holds even if the other side does not keep its own."""
    monkeypatch.setattr("edgeprune.devices.connection.MARGIN", -1.9)
    worker(SLEEPS)
    device = device_for(sshd.spec(grace_seconds=0.1))
    with pytest.raises(DeadlineError):
        device.ask(request(exported("mlp"), deadline_seconds=0.1))
    sshd.wait_until_clean()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("raise SystemExit(3)", "no message"),
        ("pass", "result.json"),
        ("import sys; open(sys.argv[2], 'w').write('{')", "unreadable answer"),
    ],
)
def test_a_worker_that_fails(sshd, exported, worker, program: str, message: str) -> None:
    worker(program)
    with pytest.raises(DeviceError, match=message):
        device_for(sshd.spec()).ask(request(exported("mlp")))
    sshd.wait_until_clean()


def sleepers(sshd) -> list[str]:
    return [line for line in sshd.left() if "request.json" in line]


def wait_for_worker(sshd) -> None:
    until = time.monotonic() + 20
    while not sleepers(sshd) and time.monotonic() < until:
        time.sleep(0.02)
    assert sleepers(sshd), "the worker never started"


def test_a_cable_pulled_half_way(sshd, exported, worker) -> None:
    worker(SLEEPS)
    device = device_for(sshd.spec())
    caught: list[Exception] = []

    def ask() -> None:
        try:
            device.ask(request(exported("mlp")))
        except DeviceError as error:
            caught.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for_worker(sshd)
    sshd.cut()
    asking.join(15)
    assert "host board cannot be reached" in str(caught[0]) or "closed" in str(caught[0])
    sshd.wait_until_clean()


def test_a_connection_lost_between_questions_is_made_anew(sshd, exported, sent) -> None:
    device = device_for(sshd.spec())
    device.ask(request(exported("mlp")))
    device._connection._channel._process.kill()
    device._connection._channel._process.wait()
    assert device.ask(request(exported("mlp"))).models
    assert len([name for name in sent if name.endswith(".onnx")]) == 2, "the folder went with it"
    device.close()
    sshd.wait_until_clean()


def test_a_full_disk(start_sshd, exported, tmp_path: Path) -> None:
    limited = start_sshd('ForceCommand ulimit -f 200; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    large = tmp_path / "large.onnx"
    large.write_bytes(bytes(3_000_000))
    device = device_for(limited.spec())
    with pytest.raises(DeviceError, match="File too large"):
        device.ask(request(large))
    assert device.ask(request(exported("mlp"))).models, "the connection is still in step"


PROGRAM = """
import sys
from edgeprune.devices import remote
from edgeprune.devices.protocol import Request, file_of
from edgeprune.devices.spec import load_spec
from edgeprune.devices.ssh import open_ssh
from pathlib import Path
remote.WORKER = Path(sys.argv[3])
open_ssh(load_spec(sys.argv[1])).ask(Request(task="time", models=(file_of("m", Path(sys.argv[2])),)))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_when_we_are_ended(sshd, exported, tmp_path: Path, number: int) -> None:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    words = [str(sshd.profile()), str(exported("mlp")), str(tmp_path / "sleeps.py")]
    ours = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_for_worker(sshd)
    ours.send_signal(number)
    assert ours.wait(10) in (-number, 1)
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
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
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
