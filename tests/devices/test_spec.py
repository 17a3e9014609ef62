from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.devices.local import LocalDevice, runtime_providers
from edgeprune.devices.opening import device_for, obstacle_to, open_device
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import known_devices, load_spec, profile_folder
from edgeprune.errors import DeviceError, JobError, UnknownDeviceError

GOOD = """\
title = "t"
kind = "cpu"
runtime = "onnxruntime"
transport = "local"
unit = "us"
figure = "measured"
"""


def test_the_devices_of_this_version_are_known() -> None:
    assert {"mobile_cpu", "simulated"} <= set(known_devices())
    assert list(known_devices()) == sorted(known_devices())


@pytest.mark.parametrize("name", known_devices())
def test_every_shipped_profile_loads_and_opens_with_the_command_that_uses_it(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    text = (profile_folder() / f"{name}.toml").read_text()
    assert text.startswith("# ")
    assert f"--device {name}" in text.splitlines()[0]
    assert spec.source, "every number needs its source"


def test_mobile_cpu_is_measured_in_time_on_one_thread(local_spec) -> None:
    assert (local_spec.figure, local_spec.unit, local_spec.threads) == ("measured", "us", 1)


def test_the_simulated_device_never_claims_to_measure() -> None:
    assert load_spec("simulated").figure == "estimated"


@pytest.mark.parametrize(
    "name", ["mobile_gpu", "", "../pyproject", "mobile_cpu ", "/etc/passwd", "nowhere.toml"]
)
def test_an_unknown_device_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownDeviceError) as caught:
        load_spec(name)
    assert repr(name) in caught.value.what
    assert all(known in caught.value.hint for known in known_devices())
    assert caught.value.exit_code == 2


def test_a_profile_file_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD + "threads = 2\naffinity = [0, 1]\n")
    spec = load_spec(str(path))
    assert (spec.name, spec.threads, spec.affinity) == ("board", 2, (0, 1))


def test_all_faults_of_a_profile_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(
        GOOD.replace('"us"', '"hours"') + "threads = 0\nspeed = 3\n[simulation]\nstep = 0\n"
    )
    with pytest.raises(JobError, match=r"board\.toml: 4 faults") as caught:
        load_spec(str(path))
    assert {fault.partition(":")[0] for fault in caught.value.faults} == {
        "unit (line 5)", "threads (line 7)", "speed (line 8)", "simulation.step (line 10)"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("thread = 2", "thread (line 7): unknown key; did you mean 'threads'? (known: name, "),
        ("[ssh]\nhots = 'a'", "ssh.hots (line 8): unknown key; did you mean 'host'?"),
        ("allias = 'mobile_cpu'", "allias (line 7): unknown key; did you mean 'alias'?"),
    ],
)
def test_a_misspelt_key_of_a_profile_gets_a_suggestion(
    tmp_path: Path, line: str, told: str
) -> None:
    path = tmp_path / "board.toml"
    path.write_text(f"{GOOD}{line}\n")
    with pytest.raises(JobError) as caught:
        load_spec(str(path))
    (fault,) = caught.value.faults
    assert fault.startswith(told)


@pytest.mark.parametrize("named", ["loop.toml", "other.toml"])
def test_an_alias_of_an_alias_is_one_fault(tmp_path: Path, named: str) -> None:
    (tmp_path / "other.toml").write_text('alias = "simulated"\n')
    path = tmp_path / "loop.toml"
    path.write_text(f'title = "t"\nalias = "{tmp_path / named}"\n')
    with pytest.raises(JobError) as caught:
        load_spec(str(path))
    (fault,) = caught.value.faults
    assert fault.startswith("alias (line 2): must name a profile without alias, and ")
    assert fault.endswith(f"{named} has one")


def test_a_misspelt_device_gets_a_suggestion() -> None:
    with pytest.raises(UnknownDeviceError, match="'simulatd'; did you mean 'simulated'"):
        load_spec("simulatd")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('figure = "estimated"', 'transport = "local" needs figure = "measured"'),
        ('unit = "instructions"', 'transport = "local" needs unit = "us"'),
        (
            'transport = "simulated"',
            'transport = "simulated" needs runtime = "simulated", figure = "estimated"',
        ),
        (
            'transport = "qemu_user"',
            'transport = "qemu_user" needs figure = "emulated", unit = "instructions", '
            "a section [arm64]",
        ),
    ],
)
def test_a_profile_that_contradicts_itself(tmp_path: Path, line: str, wanted: str) -> None:
    key = line.partition(" ")[0]
    lines = [line if text.startswith(f"{key} ") else text for text in GOOD.splitlines()]
    (tmp_path / "board.toml").write_text("\n".join(lines))
    with pytest.raises(JobError) as caught:
        load_spec(str(tmp_path / "board.toml"))
    assert caught.value.faults == (f"profile: {wanted}",)


@pytest.mark.parametrize(
    "content", [b"title = ", b"\xff\xfe", b"a=" + 9999 * b"[", b"a=" + 9999 * b"1"]
)
def test_a_profile_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(content)
    with pytest.raises(JobError, match="not a device profile"):
        load_spec(str(path))


# ----------------------------------------------------------------------------------------- opening


def test_devices_open_by_their_transport(local_spec) -> None:
    assert isinstance(open_device("simulated"), SimulatedDevice)
    assert isinstance(open_device("mobile_cpu"), LocalDevice)
    assert isinstance(device_for(local_spec), LocalDevice)


def test_the_runtime_here_has_a_cpu_provider() -> None:
    assert "CPUExecutionProvider" in runtime_providers()


def test_a_missing_provider_makes_the_device_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "phone.toml"
    path.write_text(GOOD + 'providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]\n')
    reason = obstacle_to(load_spec(str(path))).why
    assert "CUDAExecutionProvider" in reason.partition("(")[0]
    assert "CPUExecutionProvider" in reason.partition("(")[2]
    with pytest.raises(
        DeviceError, match="device phone cannot be used here: onnxruntime here has no CUDA"
    ) as caught:
        open_device(str(path))
    assert caught.value.exit_code == 3
    assert "doctor" in caught.value.hint


def test_available_devices_say_nothing(local_spec) -> None:
    assert obstacle_to(local_spec) is None
    assert obstacle_to(load_spec("simulated")) is None


def test_an_unknown_device_cannot_be_opened() -> None:
    with pytest.raises(UnknownDeviceError):
        open_device("toaster")


@pytest.mark.parametrize(
    "line", ["seed = -1", "macs_per_us = 1e-300", "overhead_us = 1e308", "step = 1000000"]
)
def test_a_simulation_beyond_reason_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(
        'title = "test"\nkind = "cpu"\nruntime = "simulated"\ntransport = "simulated"\n'
        f'unit = "us"\nfigure = "estimated"\n[simulation]\n{line}\n'
    )
    with pytest.raises(JobError) as caught:
        load_spec(str(path))
    assert line.partition(" ")[0] in " ".join(caught.value.faults)
