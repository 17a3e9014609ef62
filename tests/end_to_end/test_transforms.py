"""Linear collapse and masks through the whole job, on the simulated device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(144, 64), nn.Sigmoid(), nn.Linear(64, 4),
    ).eval()
"""
JOB = """\
name = "quadrants"
[model]
factory = "net:build"
weights = "net.safetensors"
[data]
factory = "data:load"
[budget]
latency = "60%"
max_accuracy_drop = 0.05
[prune]
calibration_samples = 192
[recover]
steps = 20
"""


@pytest.fixture
def small(job: Path) -> Path:
    """A job with a network of two linear layers, trained for a moment; returns its job.toml."""
    folder = job.parent
    (folder / "net.py").write_text(MODEL)
    (folder / "small.toml").write_text(JOB)
    space: dict[str, object] = {}
    exec(MODEL + (folder / "data.py").read_text(), space)
    model, data = space["build"]().train(), space["load"]()  # type: ignore[operator]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for x, y in data.train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    save_file(model.state_dict(), folder / "net.safetensors")
    return folder / "small.toml"


def _operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def _verdict(out: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((out / "verdict.json").read_text())


def test_nearly_linear_layers_become_one(small: Path, inside: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    small.write_text(JOB + "[collapse]\nenabled = true\nmax_error = 0.5\n")
    out = tmp_path / "out"
    done = inside("run", small, "--device", small.with_name("exact.toml"), "--out", out)
    assert done.returncode == 0, done.stderr
    (tried,) = _verdict(out)["prepared"]["collapses"]
    assert tried["accepted"]
    assert (tried["chain"]["first"], tried["inputs"], tried["outputs"]) == ("1", 144, 4)
    assert 0 < tried["error"] < 0.5
    assert tried["cost"]["low"] > 1
    assert "Sigmoid" not in _operators(out / "model.onnx")
    assert _verdict(out)["slim"]["parameters"] == 145 * 4
    assert _verdict(out)["plan"]["widths"] == {}
    for name in ("report.html", "README.md"):
        assert "Collapsed into one Linear: 1 to 3" in (out / name).read_text()
    before = _verdict(out)
    again = inside(
        "run", small, "--device", small.with_name("exact.toml"), "--out", out, "--resume"
    )
    assert again.returncode == 0, again.stderr
    assert _verdict(out) == before


def test_layers_that_are_not_linear_enough_stay_and_are_cut(
    small: Path, inside: Callable, tmp_path: Path
) -> None:  # type: ignore[type-arg]
    small.write_text(JOB + "[collapse]\nenabled = true\nmax_error = 1e-6\n")
    out = tmp_path / "out"
    done = inside("run", small, "--device", small.with_name("exact.toml"), "--out", out)
    assert done.returncode in (0, 1), done.stderr
    (tried,) = _verdict(out)["prepared"]["collapses"]
    assert not tried["accepted"]
    assert "misses" in tried["reason"]
    assert tried["cost"] is None
    assert "Sigmoid" in _operators(out / "model.onnx")
    assert _verdict(out)["plan"]["widths"]["1"][1] < 64
    assert "Left as they are: 1 to 3" in done.stderr


def test_a_model_with_masks_is_shrunk_for_real(
    small: Path, inside: Callable, tmp_path: Path
) -> None:  # type: ignore[type-arg]
    """Weights saved with masks; the factory knows nothing of them."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.Sigmoid(), nn.Linear(64, 4))
    model.load_state_dict(load_file(small.with_name("net.safetensors")))
    prune.ln_structured(model[1], "weight", 0.5, n=2, dim=0)
    prune.l1_unstructured(model[3], "weight", 100)
    wanted = model.eval()(torch.ones(1, 1, 12, 12))
    save_file(model.state_dict(), small.with_name("net.safetensors"))
    text = JOB.replace("steps = 20", "steps = 0")
    small.write_text(text.replace("60%", "100%"))  # nothing is cut beyond the masks
    out = tmp_path / "out"
    done = inside("run", small, "--device", small.with_name("exact.toml"), "--out", out)
    assert done.returncode == 0, done.stderr
    found = _verdict(out)["prepared"]["masks"]
    (removed,) = found["removed"]
    assert (removed["group"], len(removed["kept"]), removed["folded"]) == ("1", 32, 32)
    assert found["kind"] == "given"
    assert found["held"] == ["3.weight"]
    assert _verdict(out)["slim"]["parameters"] == 145 * 32 + 33 * 4
    assert "proved equal" in done.stderr
    import onnxruntime

    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": torch.ones(1, 1, 12, 12).numpy()})
    assert torch.allclose(torch.from_numpy(got), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "zeros"),
    [
        ('kind = "l1"\namount = 0.75', 0.75),
        ('kind = "random"\namount = 0.75', 0.75),
        ('kind = "global"\namount = 0.75', 0.75),
        ('kind = "iterative"\namount = [0.5, 0.5]', 0.75),
    ],
)
def test_zeros_survive_recovery_and_save_room_but_no_time(
    small: Path, inside: Callable, tmp_path: Path, mask: str, zeros: float
) -> None:  # type: ignore[type-arg]
    small.write_text(f"{JOB}[mask]\n{mask}\n".replace('"60%"', '"100%"'))
    out = tmp_path / "out"
    done = inside("run", small, "--device", small.with_name("exact.toml"), "--out", out)
    assert done.returncode in (0, 1), done.stderr
    assert "skips no zero weights" in done.stderr
    verdict = _verdict(out)
    dense, slim = verdict["stored"]
    assert verdict["prepared"]["masks"]["removed"] == []
    assert slim["zeros"] / slim["weights"] == pytest.approx(zeros, abs=0.01)
    assert dense["zeros"] == 0
    assert slim["gzip_bytes"] < 0.5 * dense["gzip_bytes"]
    assert slim["csr_bytes"] < 0.6 * dense["csr_bytes"]
    assert abs(slim["file_bytes"] - dense["file_bytes"]) < 1000  # names and metadata only
    assert verdict["prepared"]["gain"]["median"] == 1.0
    assert "75 % of its weights are zero" in done.stderr


def test_channel_masks_leave_physically_and_a_tighter_budget_cuts_on(
    small: Path, inside: Callable, tmp_path: Path
) -> None:  # type: ignore[type-arg]
    small.write_text(f"{JOB}[mask]\namount = 0.25\n")  # auto: whole channels on a dense runtime
    out = tmp_path / "out"
    done = inside("run", small, "--device", small.with_name("exact.toml"), "--out", out)
    assert done.returncode in (0, 1), done.stderr
    verdict = _verdict(out)
    assert verdict["prepared"]["masks"]["kind"] == "ln_structured"
    assert len(verdict["prepared"]["masks"]["removed"][0]["kept"]) == 48
    before, after = verdict["plan"]["widths"]["1"]
    assert before == 48
    assert after < 48
    assert verdict["budget"]["met"]
    assert verdict["budget"]["limit"] == pytest.approx(0.6 * verdict["dense"]["cost"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[mask]\nkind = "l2"', "no mask 'l2'"),
        ('[mask]\nkind = "l1"\namount = [0.5, 0.5]', "takes one amount"),
        ("[mask]\namount = 1.0", "less than 1"),
        ("[mask]\n[recover]\nreconstruct = true", "would fill the weights"),
        ("[collapse]\nmax_error = 0.0", "greater than 0"),
    ],
)
def test_bad_sections(small: Path, inside: Callable, text: str, fault: str) -> None:  # type: ignore[type-arg]
    small.write_text(JOB.replace("[recover]\nsteps = 20\n", "") + text + "\n")
    done = inside("run", small, "--device", small.with_name("exact.toml"))
    assert done.returncode == 2
    assert fault in done.stderr
