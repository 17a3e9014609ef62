"""Android devices, with a recording stand-in for adb: no phone takes part in these tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgeprune.devices.local import LocalDevice
from edgeprune.devices.opening import device_for, obstacle_to
from edgeprune.devices.perf_test import PerfTestDevice
from edgeprune.devices.protocol import Request, file_of
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeadlineError, DeviceError, LostDeviceError, UnsupportedModelError
from edgeprune.records import DeviceSpec
from edgeprune.verify.inference import numeric_device

STAND_INS = Path(__file__).parent / "stand_ins"


@dataclass
class Phone:
    """What the stand-in works on: `place` is the phone's storage, `records` the stand-in's own."""

    place: Path
    records: Path
    binary: Path

    @property
    def calls(self) -> list[list[str]]:
        """The calls of adb so far, without the serial number."""
        lines = (self.records / "calls").read_text().splitlines()
        calls = [json.loads(line) for line in lines]
        return [call[2:] if call[0] == "-s" else call for call in calls]

    def state(self, text: str) -> None:
        (self.records / "state").write_text(text)

    def spec(self, **keys: object) -> DeviceSpec:
        """Return the shipped profile with this phone's paths."""
        spec = load_spec("android_arm64")
        settings = {"python": sys.executable, "folder": str(self.place), **keys}
        return spec.model_copy(update={"adb": spec.adb.model_copy(update=settings)})

    def perf_test(self, **keys: object) -> DeviceSpec:
        return self.spec(mode="perf_test", binary=str(self.binary), **keys)

    def left(self) -> list[str]:
        found = [str(path) for path in self.place.iterdir()]
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
            if process.pid != os.getpid() and any(str(self.place) in word for word in words):
                found.append(" ".join(words))
        return found

    def wait_until_clean(self, seconds: float = 10.0) -> None:
        until = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < until:
            time.sleep(0.05)
        assert left == []


def program(path: Path, source: str) -> None:
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(0o755)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch) -> Phone:
    """A phone called phone-1, plugged in and willing."""
    tools, place, records = (tmp_path / name for name in ("tools", "it's a phone", "records"))
    built = tmp_path / "build"
    for folder in (tools, place, records, built):
        folder.mkdir()
    program(tools / "adb", (STAND_INS / "adb.py").read_text())
    program(tools / "run-as", "import os, sys\nos.execv(sys.argv[2], sys.argv[2:])\n")
    program(tools / "getprop", "import sys\nprint('the ' + sys.argv[1])\n")
    program(built / "onnxruntime_perf_test", (STAND_INS / "perf_test.py").read_text())
    (built / "libonnxruntime.so").write_bytes(b"a library")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ADB_RECORDS", str(records))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    found = Phone(place, records, built / "onnxruntime_perf_test")
    found.state("device")
    return found


def request(*files: Path, **fields) -> Request:
    models = tuple(file_of(file.stem, file) for file in files)
    quick = {"task": "time", "rounds": 3, "warmup_runs": 1, "warmup_seconds": 0.0}
    return Request(**{**quick, "models": models, **fields})


# ------------------------------------------------------------------------------------------- termux


def test_the_worker_answers_under_termux(phone, local, exported, tmp_path: Path) -> None:
    device = device_for(phone.spec())
    answer = device.ask(request(exported("mlp"), exported("plain"), rounds=4))
    assert [len(model.values) for model in answer.models] == [4, 4]
    assert answer.environment.facts["transport"] == "adb"
    layers = device.ask(request(exported("plain"), task="layers")).models[0]
    assert any("Conv" in str(node.operator) for node in layers.nodes)

    images = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "in.npz", input=images)
    outputs = []
    for name, asked in (("there", device), ("here", local)):
        paths = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / f"{name}.npy")}
        asked.ask(request(exported("plain"), task="run", **paths))
        outputs.append(np.load(paths["outputs"]))
    np.testing.assert_array_equal(*outputs)

    assert len(phone.calls) == 1, "one adb process carries everything"
    assert " run-as com.termux " in f" {phone.calls[0][-1]} "
    device.close()
    phone.wait_until_clean()


def test_a_phone_is_named_by_profile_or_environment(phone, monkeypatch) -> None:
    assert obstacle_to(phone.spec(serial="phone-1")) is None
    assert "device 'phone-2' not found" in obstacle_to(phone.spec(serial="phone-2")).why
    monkeypatch.setenv("ANDROID_SERIAL", "phone-3")
    assert "Android device phone-3 cannot be reached" in obstacle_to(phone.spec()).why
    lines = (phone.records / "calls").read_text().splitlines()
    assert [json.loads(line)[1] for line in lines if "get-state" in line] == [
        "phone-1", "phone-2", "phone-3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "why"),
    [("none", "no devices"), ("unauthorized", "not allowed"), ("offline", "offline")],
)
def test_a_phone_that_is_not_there(phone, exported, state: str, why: str) -> None:
    phone.state(state)
    obstacle = obstacle_to(phone.spec())
    assert why in obstacle.why
    assert "adb devices" in obstacle.help


@pytest.mark.parametrize("mode", ["termux", "perf_test"])
def test_a_phone_unplugged_between_questions(phone, exported, mode: str) -> None:
    spec = phone.spec() if mode == "termux" else phone.perf_test()
    device = device_for(spec)
    device.ask(request(exported("mlp")))
    device.close()
    phone.state("none")
    with pytest.raises(LostDeviceError, match="no devices/emulators found") as caught:
        device.ask(request(exported("mlp")))
    assert caught.value.exit_code == 3
    with pytest.raises(DeviceError) as caught:
        device_for(spec).ask(request(exported("mlp")))
    assert not isinstance(caught.value, LostDeviceError)  # it never answered


def test_adb_is_not_installed(phone, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert obstacle_to(phone.spec()) == ("adb is not installed", "apt install adb")


def test_a_termux_that_cannot_be_entered(phone) -> None:
    refuse = "import sys\nsys.exit('run-as: package not debuggable: com.termux')\n"
    program(Path(os.environ["PATH"].split(os.pathsep)[0]) / "run-as", refuse)
    obstacle = obstacle_to(phone.spec())
    assert "not debuggable" in obstacle.why
    assert "sshd in Termux" in obstacle.help


def test_a_termux_without_python_or_packages(phone, tmp_path: Path) -> None:
    program(
        Path(os.environ["PATH"].split(os.pathsep)[0]) / "run-as",
        "import sys\nsys.stderr.write('python: not found\\n')\nsys.exit(127)\n",
    )
    obstacle = obstacle_to(phone.spec())
    assert "not found" in obstacle.why
    assert "pkg install" in obstacle.help


# ---------------------------------------------------------------------------------------- perf_test


def test_perf_test_times_models(phone, exported) -> None:
    spec = phone.perf_test().model_copy(update={"affinity": (0,)})
    device = device_for(spec)
    assert isinstance(device, PerfTestDevice)
    asked = request(
        exported("mlp"), exported("plain"), rounds=4, inner=2, openings=2, warmup_runs=3
    )
    answer = device.ask(asked)
    assert [model.name for model in answer.models] == ["mlp", "plain"]
    assert all(len(model.values) == 2 * 4 * 2 for model in answer.models)
    assert all(0 < value < 1e6 for model in answer.models for value in model.values)
    assert all(model.load_seconds > 0 for model in answer.models)
    facts = answer.environment.facts
    assert (facts["processor"], facts["threads"]) == ("the ro.soc.model", "1")
    assert {"binary", "processor"} <= set(answer.environment.comparable)
    assert answer.environment.differences(device.ask(asked).environment) == []

    pushed = [Path(call[2]).name for call in phone.calls if call[0] == "push"]
    assert len(pushed) == len(set(pushed)) == 4, "program, library and two models, once each"
    runs = [call[-1] for call in phone.calls if "-m times" in call[-1]]
    assert len(runs) == 2 * 2 * 2
    assert all("taskset 1 ./onnxruntime_perf_test -I -m times -r 11 " in run for run in runs)
    device.close()
    phone.wait_until_clean()


def test_perf_test_says_what_it_cannot_do(phone, exported) -> None:
    device = device_for(phone.perf_test())
    with pytest.raises(DeviceError, match="the cost of layers") as caught:
        device.ask(request(exported("mlp"), task="layers"))
    assert "termux" in caught.value.hint
    with pytest.raises(DeviceError, match="the outputs of a model"):
        device.ask(request(exported("mlp"), task="run"))
    assert isinstance(numeric_device(device), LocalDevice), "parity is looked at on this machine"
    fast = phone.perf_test().model_copy(update={"providers": ("NnapiExecutionProvider",)})
    with pytest.raises(DeviceError, match="fell back to the CPU"):
        device_for(fast).ask(request(exported("mlp")))


def test_perf_test_without_its_binary(phone) -> None:
    assert obstacle_to(phone.perf_test()) is None
    phone.binary.unlink()
    obstacle = obstacle_to(phone.perf_test())
    assert str(phone.binary) in obstacle.why
    assert "`binary` under [adb]" in obstacle.help


def test_perf_test_and_a_file_that_is_no_model(phone, tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    with pytest.raises(UnsupportedModelError, match=r"garbage\.onnx is not an ONNX model"):
        device_for(phone.perf_test()).ask(request(tmp_path / "garbage.onnx"))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            "import sys; sys.exit('Load model from x.onnx failed: Fancy')",
            UnsupportedModelError,
            "Fancy",
        ),
        ("import sys; sys.exit('cannot open shared object file')", DeviceError, "shared object"),
        ("import os; os.kill(os.getpid(), 9)", DeviceError, "exit code 137"),
        ("print('Session creation time cost: 1 s')", DeviceError, "failed to stat"),
        (
            "import sys\nprint('Session creation time cost: 1 s')\nopen(sys.argv[-1], 'w').write('x,nan,1,1,0\\n')",
            DeviceError,
            "wrote 1 times of 4 runs",
        ),
        ("import time; time.sleep(60)", DeadlineError, "no answer within"),
    ],
)
def test_a_perf_test_that_fails(phone, exported, source: str, error, message: str) -> None:
    program(phone.binary, source)
    device = device_for(phone.perf_test(grace_seconds=0.5))
    with pytest.raises(error, match=message):
        device.ask(request(exported("mlp"), deadline_seconds=0.5))
    device.close()
    phone.wait_until_clean()


PROGRAM = """
import sys
from edgeprune.devices.adb import open_adb
from edgeprune.devices.protocol import Request, file_of
from edgeprune.records import DeviceSpec
from edgeprune.verify.inference import numeric_device
from pathlib import Path
spec = DeviceSpec.model_validate_json(sys.argv[1])
open_adb(spec).ask(Request(task="time", models=(file_of("m", Path(sys.argv[2])),)))
"""


def test_perf_test_ends_with_us(phone, exported) -> None:
    program(phone.binary, "import time; time.sleep(60)")
    ours = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, phone.perf_test().model_dump_json(), str(exported("mlp"))],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    until = time.monotonic() + 30
    while not any("-m times" in line for line in phone.left()) and time.monotonic() < until:
        time.sleep(0.05)
    ours.kill()
    assert ours.wait(10) == -signal.SIGKILL
    phone.wait_until_clean()
