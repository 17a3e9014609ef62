"""Hosts that cannot be entered, and connections that end half-way."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeprune.cli import execute
from edgeprune.devices.opening import device_for, obstacle_to
from edgeprune.devices.protocol import Request, file_of
from edgeprune.errors import DeadlineError, DeviceError, LostDeviceError, UsageError
from tests.running import interruptible

pytestmark = pytest.mark.ssh

SLEEPS = "import time; time.sleep(60)"


def request(*files: Path, **fields) -> Request:
    models = tuple(file_of(file.stem, file) for file in files)
    quick = {"task": "time", "rounds": 3, "warmup_runs": 1, "warmup_seconds": 0.0}
    return Request(**{**quick, "models": models, **fields})


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
    assert isinstance(caught[0], LostDeviceError)
    sshd.wait_until_clean()


def test_a_cable_pulled_half_way_tells_how_to_go_on(
    sshd, exported, worker, capfd, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    worker(SLEEPS)

    def pull() -> None:
        wait_for_worker(sshd)
        sshd.cut()

    pulling = threading.Thread(target=pull)
    pulling.start()
    words = ["profile", str(exported("mlp")), "--device", str(sshd.profile()), "--seconds", "1"]
    assert execute([*words, "--resume"]) == 3
    pulling.join(15)
    last = capfd.readouterr().err.splitlines()[-1]
    again = shlex.join(["edgeprune", *words, "--resume"])
    assert last == f"  what is finished is kept; go on with: {again}"
    assert execute(words) == 3  # nobody is there from the start: nothing to go on with
    assert "--resume" not in capfd.readouterr().err


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
        preexec_fn=interruptible,
    )
    wait_for_worker(sshd)
    ours.send_signal(number)
    assert ours.wait(10) in (-number, 1)
    sshd.wait_until_clean()
