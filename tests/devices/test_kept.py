from __future__ import annotations

import shutil

import pytest

from edgeprune.devices.kept import keep
from edgeprune.errors import DeviceError, ResumeError
from edgeprune.profiler.layers import profile_model
from edgeprune.records import Environment


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Unplugged:
    """Passes requests on until the transport dies."""

    def __init__(self, device, after: int) -> None:
        self.device, self.spec, self.left, self.asked = device, device.spec, after, 0

    def ask(self, request):
        self.asked += 1
        if self.left == 0:
            raise DeviceError("device simulated: connection lost")
        self.left -= 1
        return self.device.ask(request)


def test_finished_measurements_survive_an_unplugged_device(simulated, exported) -> None:
    path = exported("plain")
    dying = Unplugged(simulated(noise=0.02), after=3)
    with pytest.raises(DeviceError, match="connection lost"):
        profile_model(keep(dying, path, resume=False), path, name="m", rounds=5)
    alive = Unplugged(simulated(noise=0.02), after=-1)
    kept = keep(alive, path, resume=True)
    resumed = profile_model(kept, path, name="m", rounds=5)
    assert resumed.processes == 3
    assert alive.asked == 2 * 3 - 3
    kept.forget()
    again = Unplugged(simulated(noise=0.02), after=-1)
    profile_model(keep(again, path, resume=True), path, name="m", rounds=5)
    assert again.asked == 6


def test_answers_that_cannot_be_kept_are_told_once(simulated, exported, tmp_path) -> None:
    path, told = exported("plain"), list[str]()
    kept = keep(simulated(), path, resume=False, warn=told.append)
    kept.folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(kept.folder, ignore_errors=True)
    kept.folder.touch()
    assert profile_model(kept, path, name="m", rounds=5).processes == 3
    (line,) = told
    assert f"{kept.folder} is a file, not a folder; XDG_CACHE_HOME may name" in line


def test_without_resume_nothing_of_before_is_used(simulated, exported) -> None:
    path = exported("plain")
    profile_model(keep(simulated(), path, resume=False), path, name="m", rounds=5)
    fresh = Unplugged(simulated(), after=-1)
    profile_model(keep(fresh, path, resume=False), path, name="m", rounds=5)
    assert fresh.asked == 6


def test_another_model_or_device_finds_nothing(simulated, exported) -> None:
    keep(simulated(), exported("plain"), resume=False)
    folders = {
        keep(simulated(**fields), exported(name), resume=True).folder
        for fields, name in (({}, "plain"), ({}, "mlp"), ({"step": 16}, "plain"))
    }
    assert len(folders) == 3


def test_answers_of_another_environment_are_refused(simulated, exported) -> None:
    path = exported("plain")
    dying = Unplugged(simulated(), after=1)
    with pytest.raises(DeviceError, match="connection lost"):
        profile_model(keep(dying, path, resume=False), path, name="m", rounds=5)

    class Upgraded(Unplugged):
        def ask(self, request):
            facts = {"device": "simulated", "onnxruntime": "2.0"}
            environment = Environment(facts=facts, comparable=tuple(facts))
            return super().ask(request).model_copy(update={"environment": environment})

    upgraded = Upgraded(simulated(), after=-1)
    with pytest.raises(
        ResumeError, match=r"(?s)another environment:\n.*onnxruntime: unknown against 2.0"
    ):
        profile_model(keep(upgraded, path, resume=True), path, name="m", rounds=5)


def test_a_damaged_answer_is_measured_again(simulated, exported) -> None:
    path = exported("plain")
    kept = keep(simulated(), path, resume=False)
    profile_model(kept, path, name="m", rounds=5)
    for file in kept.folder.glob("*.json"):
        file.write_text("{")
    counting = Unplugged(simulated(), after=-1)
    profile_model(keep(counting, path, resume=True), path, name="m", rounds=5)
    assert counting.asked == 6
