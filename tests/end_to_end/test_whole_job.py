"""Whole jobs through the command line: what they leave, resume, and real measurements."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime
import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]
STAGES = (
    "1-groups", "2-profile", "3-price", "4-weigh", "5-allocate", "6-shrink", "7-recover", "8-export",
    "9-verify",
)  # fmt: skip
SHIPPED = {"model.onnx", "manifest.json", "verdict.json", "README.md", "report.html", "SHA256SUMS"}
FIELDS = {
    "schema", "job", "device", "kind", "unit", "passed", "dense", "slim", "speedup", "parity", "budget",
    "predicted", "plan", "gates",
}  # fmt: skip


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_run_leaves_everything_and_tells_it_in_json(job, edgeprune, tmp_path) -> None:
    out = tmp_path / "out"
    done = edgeprune("run", job, "--device", job.with_name("exact.toml"), "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict.keys() >= FIELDS
    assert verdict == json.loads((out / "verdict.json").read_text())
    assert contents(out) == SHIPPED
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, check=False
    )
    assert checked.returncode == 0
    budget = verdict["budget"]
    assert budget["limit"] == pytest.approx(0.6 * verdict["dense"]["cost"])
    assert 0.97 * budget["limit"] <= budget["reached"] <= budget["limit"]
    assert verdict["slim"]["parameters"] < verdict["dense"]["parameters"]
    assert verdict["slim"]["macs"] < verdict["dense"]["macs"]
    assert verdict["dense"]["accuracy"] - verdict["slim"]["accuracy"] <= 0.05
    assert verdict["dense"]["accuracy"] > 0.9
    assert {g["name"]: g["met"] for g in verdict["gates"]} == {
        "parity": True, "accuracy": True, "budget": True, "speedup": None,
    }  # fmt: skip
    session = onnxruntime.InferenceSession(out / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map["edgeprune.job"] == "quadrants"
    assert session.get_inputs()[0].shape == [1, 1, 12, 12]
    for name in SHIPPED:
        assert str(job.parent).encode() not in (out / name).read_bytes(), name


def test_the_same_inputs_give_the_same_plan_and_the_same_file(job, inside, tmp_path) -> None:
    digests = []
    for name in ("a", "b"):
        done = inside(
            "run", job, "--device", job.with_name("exact.toml"), "--out", tmp_path / name, "--json"
        )
        document = json.loads(done.stdout)
        digests.append((document["plan"]["digest"], (tmp_path / name / "model.onnx").read_bytes()))
    assert digests[0][0] == digests[1][0]
    assert hashlib.sha256(digests[0][1]).digest() == hashlib.sha256(digests[1][1]).digest()


@pytest.mark.slow
def test_killed_in_every_stage_it_resumes_to_the_same_plan(job, edgeprune, tmp_path) -> None:
    device = job.with_name("exact.toml")
    whole = edgeprune("run", job, "--device", device, "--out", tmp_path / "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    finished: dict[str, bytes] = {}
    for stage in STAGES[:-1]:
        command = [sys.executable, "-m", "edgeprune", "run", job, "--device", device, "--out", out]
        process = subprocess.Popen(
            [*map(str, command), "--resume"], stderr=subprocess.DEVNULL, start_new_session=True
        )
        marker = out / ".run" / f"{stage}.json"
        until = time.monotonic() + 120
        while not marker.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert marker.exists(), stage
        assert not (out / "verdict.json").exists()
        for name, before in finished.items():
            assert (out / ".run" / f"{name}.json").read_bytes() == before, f"{name} was done again"
        finished |= {
            name: (out / ".run" / f"{name}.json").read_bytes()
            for name in STAGES
            if (out / ".run" / f"{name}.json").exists()
        }
    done = edgeprune("run", job, "--device", device, "--out", out, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    for name, before in finished.items():
        assert (out / ".run" / f"{name}.json").read_bytes() == before
    assert json.loads(done.stdout)["plan"] == json.loads(whole.stdout)["plan"]
    assert contents(out) == SHIPPED
    assert not list(out.rglob("*.partial"))


def test_resume_refuses_another_job_and_a_new_run_keeps_the_old_state(
    job, inside, tmp_path
) -> None:
    device, out = job.with_name("exact.toml"), tmp_path / "out"
    assert inside("run", job, "--device", device, "--out", out).returncode == 0
    refused = inside("run", job, "--device", device, "--out", out, "--resume", "--budget", "50%")
    assert refused.returncode == 2
    assert "budget: was 60%, is 50%" in refused.stderr
    anew = inside("run", job, "--device", device, "--out", out, "--budget", "50%", "--json")
    assert anew.returncode == 0, anew.stderr
    assert (out / ".run.previous" / "5-allocate.json").exists()
    assert json.loads(anew.stdout)["budget"]["asked"] == "50%"


def test_a_failed_gate_ends_with_1_and_is_named(job, inside, tmp_path) -> None:
    text = job.read_text().replace('latency = "60%"', 'latency = "20%"')
    text = text.replace("max_accuracy_drop = 0.05", "max_accuracy_drop = 0.0")
    job.write_text(text.replace("steps = 40", "steps = 0\nreconstruct = false"))
    out = tmp_path / "out"
    done = inside("run", job, "--device", job.with_name("exact.toml"), "--out", out, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert not document["passed"]
    assert [g["name"] for g in document["gates"] if g["met"] is False] == ["accuracy"]
    assert "Not passed: accuracy not met" in done.stderr
    assert contents(out) == SHIPPED


def test_profile_on_this_machine(job, inside) -> None:
    done = inside("profile", job, "--device", "mobile_cpu", "--json")
    assert done.returncode in (0, 4), done.stderr
    document = json.loads(done.stdout)
    assert (done.returncode == 4) is (document["stopped"] == "unstable")  # a busy machine
    assert (document["kind"], document["unit"]) == ("measured", "us")
    assert 0.3 < document["coverage"] <= 1.0
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert {"0", "3", "6", "11"} <= layers.keys()
    assert layers["3"]["macs"] == 32 * 16 * 9 * 36
    assert layers["0"]["activation_bytes"] == 16 * 144 * 4
    assert all(layer["low"] <= layer["cost"] <= layer["high"] for layer in layers.values())
    # the largest step: the first convolution's output and the second's
    assert document["peak_activation_bytes"] == (16 * 144 + 32 * 36) * 4
    assert document["environment"]["facts"]["onnxruntime"] == onnxruntime.__version__


@pytest.mark.slow
def test_channels_are_ranked_for_what_follows(job, inside) -> None:
    """By what re-fitting cannot make up for where it follows, else by each group's best curve."""
    device = job.with_name("exact.toml")

    def ranked() -> dict[str, str]:
        done = inside("plan", job, "--device", device, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["criteria"]

    text = job.read_text().replace(
        "[prune]", '[prune]\npolish = false\nimportance = ["l1", "random"]'
    )
    job.write_text(text)
    chosen = json.loads(inside("sensitivity", job, "--device", device, "--json").stdout)["chosen"]
    assert ranked() == chosen
    job.write_text(text.replace('"random"', '"refit_error"'))
    assert set(ranked().values()) == {"refit_error"}
    job.write_text(job.read_text().replace("steps = 40", "steps = 40\nreconstruct = false"))
    chosen = json.loads(inside("sensitivity", job, "--device", device, "--json").stdout)["chosen"]
    assert ranked() == chosen
