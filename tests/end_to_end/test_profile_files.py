"""`edgeprune profile` and the files that it cannot write: told before, or at the cost of nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from edgeprune.devices import opening
from edgeprune.devices.simulated import SimulatedDevice

SOURCE = """\
import os
import torch

def build():
    os.chdir({there!r})
    return torch.nn.Linear(4, 2)
"""


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What the simulated device was asked."""
    found: list[str] = []
    ask = SimulatedDevice.ask

    def noted(self, request):
        found.append(request.task)
        return ask(self, request)

    monkeypatch.setattr(SimulatedDevice, "ask", noted)
    return found


@pytest.mark.parametrize("option", ["--trace", "--html"])
@pytest.mark.parametrize("where", ["file/page", "folder"])
def test_a_file_that_cannot_be_written_is_told_before_measuring(
    profile, convolutions: Path, tmp_path: Path, asked: list[str], option: str, where: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    code, out, err = profile(
        convolutions, "--device", "simulated", "--json", option, tmp_path / where
    )
    assert (code, out) == (2, ""), err
    assert "cannot write" in err
    assert asked == []


def test_a_trace_of_counts_is_refused_before_measuring(
    profile, convolutions: Path, tmp_path: Path, asked: list[str], monkeypatch, simulated
) -> None:
    device = simulated()
    device.spec = device.spec.model_copy(update={"unit": "instructions"})
    monkeypatch.setattr(opening, "open_device", lambda name, warn: device)
    code, _, err = profile(
        convolutions, "--device", "simulated", "--trace", tmp_path / "trace.json"
    )
    assert (code, "a trace shows times" in err) == (2, True), err
    assert asked == []
    assert not (tmp_path / "trace.json").exists()


def test_the_answer_comes_before_a_file_that_fails_all_the_same(
    profile, convolutions: Path, tmp_path: Path, monkeypatch
) -> None:
    page, replace = tmp_path / "page.html", Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target) == page:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    code, out, err = profile(convolutions, "--device", "simulated", "--json", "--html", page)
    assert (code, "No space left" in err) == (2, True), err
    assert json.loads(out)["device"] == "simulated"


def test_a_cache_that_cannot_be_written_costs_a_warning(
    profile, convolutions: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("")  # a file in its place
    code, out, err = profile(convolutions, "--device", "simulated", "--json")
    assert code == 0, err
    assert json.loads(out)["layers"]
    assert "XDG_CACHE_HOME may name another folder" in err


def test_files_belong_where_the_command_was_given(profile, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "there").mkdir()
    here = Path.cwd()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "toy_wanderer.py").write_text(SOURCE.format(there=str(tmp_path / "there")))
    arguments = ("toy_wanderer:build", "--device", "simulated", "--shape", "1,4")
    try:
        code, _, err = profile(*arguments, "--html", "page.html", "--trace", "trace.json")
    finally:
        sys.modules.pop("toy_wanderer", None)
        os.chdir(here)
    assert code == 0, err
    assert (tmp_path / "page.html").is_file()
    assert (tmp_path / "trace.json").is_file()
    assert not list((tmp_path / "there").iterdir())
