"""Models that only reshape: a formula may say that they cost nothing, and nothing can be cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.devices import gpu
from edgeprune.devices.arm64.place import home, installed
from edgeprune.devices.protocol import Obstacle
from edgeprune.export.onnx_graph import export
from edgeprune.records import ModelProfile

pytestmark = pytest.mark.timeout(300)
MODULE = """
import torch
from torch import nn
import edgeprune


def build():
    return nn.Flatten()


def load():
    batch = [(torch.randn(4, 3, 8, 8), torch.randint(0, 10, (4,)))]
    return edgeprune.Data(torch.zeros(1, 3, 8, 8), batch, batch, batch)
"""
JOB = """
name = "flat"
[model]
factory = "flat:build"
[data]
factory = "flat:load"
[budget]
latency = "50%"
max_accuracy_drop = 0.5
"""
NOTHING_TO_CUT = (
    "the model has no group of channels that can be cut (it has no layer with channels)"
)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gpu.PYTHON, raising=False)
    monkeypatch.setattr(gpu, "_found", {})


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    path = tmp_path / "flat.onnx"
    export(nn.Flatten().eval(), (torch.zeros(1, 3, 8, 8),), path, opset=20)
    return path


@pytest.fixture
def flat_job(tmp_path: Path) -> Path:
    (tmp_path / "flat.py").write_text(MODULE)
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path / "job.toml"


@pytest.mark.parametrize("what", ["flat", "flat_job"])
def test_what_a_formula_says_costs_nothing_is_profiled(
    what: str, profile, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    code, out, err = profile(
        request.getfixturevalue(what),
        *("--device", "edge_gpu", "--json", "--html", page, "--trace", trace),
    )
    assert code == 0, err
    found = ModelProfile.model_validate_json(out)
    assert (found.total, found.total_low, found.total_high) == (0.0, 0.0, 0.0)
    assert found.warnings == (found.warnings[0],), "only what the device is"
    assert "no layer costs anything" in err
    assert "free by formula" in err
    assert "removed by the runtime" not in err
    text = page.read_text()
    assert "0, free by formula" in text
    assert "no layer costs anything" in text


def test_free_profiles_can_be_compared(profile, flat: Path, tmp_path: Path) -> None:
    _, out, _ = profile(flat, "--device", "edge_gpu", "--json")
    earlier = tmp_path / "earlier.json"
    earlier.write_text(out)
    code, out, err = profile(flat, "--device", "edge_gpu", "--json", "--against", earlier)
    assert code == 0, err
    assert "total" in err


@pytest.mark.parametrize("device", ["mobile_cpu", "simulated"])
def test_where_a_run_itself_costs_something(profile, flat: Path, device: str) -> None:
    code, out, err = profile(flat, "--device", device, "--seconds", 1, "--json")
    assert code in (0, 4), err  # a machine that is busy may not settle
    assert ModelProfile.model_validate_json(out).total > 0


@pytest.mark.arm64
def test_an_emulator_counts_the_run(
    profile, flat: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")  # the emulator is in the user's cache, what is kept is not
    monkeypatch.setenv("EDGEPRUNE_ARM64", str(home()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if isinstance(found := installed(), Obstacle):
        pytest.skip(f"{found.why}: {found.help}")
    code, out, err = profile(flat, "--device", "arm64_emulated", "--json")
    assert code == 0, err
    assert ModelProfile.model_validate_json(out).total > 0


def test_free_models_have_no_ratio(inside, flat: Path) -> None:
    done = inside("verify", flat, flat, "--device", "edge_gpu")
    assert done.returncode == 5
    assert "flat.onnx costs nothing on edge_gpu" in done.stderr


@pytest.mark.parametrize("command", ["plan", "run", "sensitivity"])
@pytest.mark.parametrize("device", ["edge_gpu", "simulated"])
def test_nothing_to_cut_is_said_with_exit_code_5(
    command: str, device: str, inside, flat_job: Path, tmp_path: Path
) -> None:
    where = ("--out", tmp_path / "out") if command == "run" else ()
    done = inside(command, flat_job, "--device", device, *where)
    assert done.returncode == 5
    assert NOTHING_TO_CUT in done.stderr


def test_a_measured_run_never_costs_nothing(profile, flat: Path) -> None:
    _, out, _ = profile(flat, "--device", "edge_gpu", "--json")
    document = json.loads(out)
    with pytest.raises(ValueError, match="total must be above 0"):
        ModelProfile.model_validate({**document, "kind": "measured"})
