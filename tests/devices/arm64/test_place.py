from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from edgeprune.devices.arm64 import packages, place
from edgeprune.devices.arm64.cpus import CPUS, cpuinfo, processors
from edgeprune.devices.arm64.device import Arm64Device, _link
from edgeprune.devices.arm64.installing import install
from edgeprune.devices.arm64.place import Installation
from edgeprune.devices.diagnosis import diagnose
from edgeprune.devices.opening import obstacle_to, open_device
from edgeprune.devices.protocol import Request, file_of
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEPRUNE_ARM64", str(tmp_path / "arm64"))
    (tmp_path / "arm64").mkdir()
    return tmp_path / "arm64"


def recorded(home: Path, **changes) -> None:
    (home / "plugin.so").write_bytes(b"so")
    fields = {
        "qemu": "qemu", "libraries": (), "root": "root", "python": "python", "site": "site",
        "plugin": "plugin.so", "bytecode": "bytecode", "counter": place.counter_hash(),
        "versions": {"onnxruntime": importlib.metadata.version("onnxruntime"), "qemu": "7.2"},
        "files": {"plugin.so": "0" * 64},
    }  # fmt: skip
    (home / "installed.json").write_text(json.dumps({**fields, **changes}))


@pytest.mark.parametrize("name", ["arm64_emulated", "arm64_emulated_a53"])
def test_profiles_count_instructions_of_a_fixed_processor(name: str) -> None:
    spec = load_spec(name)
    assert (spec.figure, spec.unit, spec.exact) == ("emulated", "instructions", True)
    assert spec.arm64.cpu in CPUS


def test_without_the_emulator_the_device_names_the_command(home: Path) -> None:
    spec = load_spec("arm64_emulated")
    assert obstacle_to(spec) == ("the ARM64 emulator is not set up", "make arm64")
    with pytest.raises(DeviceError, match="arm64_emulated cannot be used here") as caught:
        open_device("arm64_emulated")
    assert (caught.value.exit_code, caught.value.hint) == (3, "make arm64")
    with pytest.raises(DeviceError, match="not set up"):
        Arm64Device(spec).ask(Request(task="time", models=()))
    row = next(check for check in diagnose() if check.what == "ARM64 emulator")
    assert (row.ok, row.help, row.needed) == (False, "make arm64", False)


def test_a_good_installation_stands_in_no_ones_way(home: Path) -> None:
    recorded(home)
    assert obstacle_to(load_spec("arm64_emulated")) is None
    row = next(check for check in diagnose() if check.what == "ARM64 emulator")
    assert row.ok
    assert "qemu 7.2" in row.found


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"counter": "old"}, "built from another version"),
        ({"versions": {"onnxruntime": "1.0"}}, "onnxruntime 1.0 is set up for ARM64"),
        ({"files": {"missing.so": ""}}, "missing.so is gone"),
        ({"extra": 1}, "cannot be read"),
    ],
)
def test_an_installation_that_does_not_fit_is_not_used(home: Path, changes, why) -> None:
    recorded(home, **changes)
    found = obstacle_to(load_spec("arm64_emulated"))
    assert why in found.why
    assert found.help == "make arm64"


def test_a_profile_has_to_name_the_processor_and_one_thread(home: Path) -> None:
    recorded(home)
    spec = load_spec("arm64_emulated")
    assert "[arm64]" in obstacle_to(spec.model_copy(update={"arm64": None})).why
    assert "one thread" in obstacle_to(spec.model_copy(update={"threads": 2})).why


def test_the_installation_lies_in_the_users_cache(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEPRUNE_ARM64", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert place.home() == tmp_path / "edgeprune" / "arm64"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place.home() == tmp_path / ".cache" / "edgeprune" / "arm64"


def test_the_program_sees_one_entry_for_each_processor() -> None:
    text = cpuinfo("cortex-a53")
    assert text.count("CPU part\t: 0xd03") == processors() == text.count("processor\t: ")
    assert "asimddp" not in text
    assert "asimddp" in cpuinfo("cortex-a76")


def test_a_missing_tool_is_named_with_what_helps(home: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError, match="apt-get was not found") as caught:
        install()
    assert "Debian" in caught.value.hint
    assert not (home / "installed.json").exists()


def test_a_command_that_fails_tells_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"ls failed: .*nowhere") as caught:
        packages.run(["ls", tmp_path / "nowhere"], "look elsewhere")
    assert caught.value.hint == "look elsewhere"


def test_apt_reads_other_sources_where_they_are_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "run", lambda *_: "amd64\n")
    monkeypatch.setenv("EDGEPRUNE_APT_SOURCES", str(tmp_path / "sources.list"))
    options = packages.Apt(tmp_path)._options("native", ["amd64", "arm64"])
    assert f"Dir::Etc::sourcelist={tmp_path / 'sources.list'}" in options
    assert f"Dir::State={tmp_path / 'state'}" in options
    assert options[-2:] == ["-o", "APT::Architectures::=arm64"]


def test_models_get_short_paths_and_keep_weights_beside_them(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    plain, split = tmp_path / "plain.onnx", tmp_path / "split.onnx"
    plain.write_bytes(b"...")
    split.write_bytes(b"\n\x08location\x12\x05w.bin")
    links = [
        _link(tmp_path / "scratch", f"{i}.onnx", file_of("m", path).file)
        for i, path in enumerate((plain, split))
    ]
    assert links == ["/proc/self/cwd/0.onnx", "/proc/self/cwd/1.onnx/split.onnx"]
    assert (tmp_path / "scratch" / "0.onnx").read_bytes() == b"..."
    assert (tmp_path / "scratch" / "1.onnx").resolve() == tmp_path


def test_a_record_survives_its_own_text() -> None:
    fields = dict.fromkeys(Installation.model_fields, "x")
    record = Installation.model_validate(
        {**fields, "libraries": ("a",), "versions": {"qemu": "7"}, "files": {"f": "0"}}
    )
    assert Installation.model_validate_json(record.model_dump_json()) == record
