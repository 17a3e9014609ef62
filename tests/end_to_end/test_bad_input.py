"""Bad input: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.running import interruptible, wait_for_children, wait_until_ended

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


def replaced(job: Path, before: str, after: str) -> None:
    text = job.read_text()
    assert before in text
    job.write_text(text.replace(before, after))


def weights_nan(job: Path) -> None:
    state = load_file(job.with_name("dense.safetensors"))
    state["3.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, job.with_name("dense.safetensors"))


def weights_of_another_model(job: Path) -> None:
    state = load_file(job.with_name("dense.safetensors"))
    state["11.weight"] = torch.zeros(4, 8)
    del state["0.weight"]
    save_file(state, job.with_name("dense.safetensors"))


class Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch EXECUTED",)


def pickle_with_code(job: Path) -> None:
    replaced(job, "dense.safetensors", "dense.pt")
    job.with_name("dense.pt").write_bytes(pickle.dumps({"0.weight": Payload()}))


def whole_module_pickled(job: Path) -> None:
    replaced(job, "dense.safetensors", "dense.pt")
    torch.save(torch.nn.Linear(2, 2), job.with_name("dense.pt"))


def truncated_weights(job: Path) -> None:
    path = job.with_name("dense.safetensors")
    path.write_bytes(path.read_bytes()[:500])


def untraceable(job: Path) -> None:
    job.with_name("model.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = torch.nn.Linear(144, 8)\n"
        "        self.b = torch.nn.Linear(8, 4)\n"
        "    def forward(self, x):\n"
        "        h = self.a(x.flatten(1))\n"
        "        if h.mean() > 0:\n"
        "            h = 2 * h\n"
        "        return self.b(h)\n"
        "def build():\n"
        "    return Net().eval()\n"
    )
    replaced(job, 'weights = "dense.safetensors"\n', "")


def loss_of(job: Path, body: str, role: str = "loss") -> None:
    data = job.with_name("data.py")
    replaced(data, "test=batches(256, 4))", f"test=batches(256, 4), {role}=wrong)")
    data.write_text(data.read_text() + f"\n\ndef wrong(output, target):\n    {body}\n")


def metric_of(job: Path, body: str) -> None:
    loss_of(job, body, "metric")


CASES: dict[str, tuple[Callable[[Path], None], int, tuple[str, ...]]] = {
    "job_missing": (lambda job: job.unlink(), 2, ("job.toml", "cannot be read")),
    "job_not_toml": (lambda job: job.write_text("name = \n"), 2, ("not TOML", "line 1")),
    "job_several_faults": (
        lambda job: job.write_text('nmae = "x"\n[model]\nfactory = 3\n[budget]\nlatency = "fast"\n'),
        2,
        ("5 faults", "nmae (line 1): unknown key", "model.factory (line 3)", "latency (line 5)", "name: missing"),
    ),
    "factory_not_importable": (
        lambda job: replaced(job, "model:build", "modell:build"), 2, ("no module named 'modell'",),
    ),
    "factory_without_function": (
        lambda job: replaced(job, "data:load", "data:loda"), 2, ("no function 'loda'",),
    ),
    "factory_raises": (
        lambda job: job.with_name("data.py").write_text("def load():\n    raise ValueError('no disk')\n"),
        2,
        ("data.factory", "no disk"),
    ),
    "factory_of_another_type": (
        lambda job: job.with_name("data.py").write_text("def load():\n    return 3\n"),
        2,
        ("returned a int, not edgeprune.Data",),
    ),
    "loss_raises": (
        lambda job: loss_of(job, "return output[0, 99]"), 2, ("data: loss", "failed in wrong", "data.py, line"),
    ),
    "metric_raises": (
        lambda job: metric_of(job, "return 1 / 0"), 2, ("data: metric", "failed in wrong", "ZeroDivisionError"),
    ),
    "empty_loader": (
        lambda job: replaced(job.with_name("data.py"), "batches(192, 2)", "[]"), 2, ("calibration is empty",),
    ),
    "inputs_of_another_type": (
        lambda job: replaced(job.with_name("data.py"), "return x, labels", "return x.double(), labels"),
        2,
        ("example_inputs: the model does not run on float64, but does on float32", "in the data factory"),
    ),
    "nan_weights": (weights_nan, 2, ("3.weight", "NaN")),
    "weights_missing": (
        lambda job: job.with_name("dense.safetensors").unlink(), 2, ("no file", "dense.safetensors"),
    ),
    "weights_that_do_not_fit": (
        weights_of_another_model, 2, ("missing: 0.weight", "11.weight: (4, 8) in the file"),
    ),
    "pickle_with_code": (pickle_with_code, 2, ("not plain weights",)),
    "whole_module_pickled": (whole_module_pickled, 2, ("not plain weights",)),
    "truncated_weights": (truncated_weights, 2, ("not a safetensors file",)),
    "model_not_traceable": (untraceable, 5, ("cannot be exported to ONNX", "torch.export")),
    "impossible_budget": (
        lambda job: replaced(job, '"60%"', '"0.5%"'), 1, ("smallest reachable cost", "% of dense"),
    ),
    "budget_in_another_unit": (
        lambda job: replaced(job, '"60%"', '"2Minsn"'), 2, ("this device's unit is us",),
    ),
    "layer_to_keep_unknown": (
        lambda job: replaced(job, "[prune]", '[prune]\nkeep = ["steem"]'), 2, ("no layer 'steem'",),
    ),
    "layers_unknown": (
        lambda job: replaced(job, "[prune]", '[prune]\nkeep = ["steem", "0"]\nfloors = { "33" = 8, "3" = 8 }'),
        2,
        ("prune.keep: the model has no layer 'steem'", "prune.floors: the model has no layer '33'", "its layers: 0, 3, 6, 11"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, job: Path, inside, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spoil, code, words = CASES[case]
    device = job.with_name("exact.toml")
    spoil(job)
    out = tmp_path / "out"
    done = inside("run", job, "--device", device, "--out", out, "--json", cwd=job.parent)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in " ".join(done.stderr.split()), done.stderr
    assert not out.exists() or {p.name for p in out.iterdir()} <= {".run", ".run.lock"}
    assert not out.exists() or not case.startswith("layer")  # told before anything is done
    assert not (out / ".run").exists() or (out / ".run" / "1-groups.json").exists()
    assert not list(tmp_path.rglob("EXECUTED"))
    assert not list(tmp_path.rglob("*.partial"))


def test_unknown_device_lists_the_known_ones(job: Path, inside) -> None:  # type: ignore[no-untyped-def]
    done = inside("run", job, "--device", "toaster")
    assert done.returncode == 2
    assert "unknown device 'toaster'" in done.stderr
    assert "mobile_cpu" in done.stderr
    assert "simulated" in done.stderr


@pytest.mark.parametrize(
    ("where", "said"), [("/proc/edgeprune", "cannot write"), ("file", "is no folder")]
)
def test_output_folder_that_cannot_be_written(
    where: str, said: str, job: Path, inside, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    out = Path(where)
    if where == "file":
        out = tmp_path / "taken"
        out.write_text("mine")
    done = inside("run", job, "--device", job.with_name("exact.toml"), "--out", out)
    assert done.returncode == 2
    assert said in done.stderr
    assert "--out" in done.stderr
    assert where != "file" or out.read_text() == "mine"


@pytest.mark.skipif(
    shutil.which("mount") is None or os.geteuid() != 0, reason="needs root to mount a small disk"
)
def test_full_disk_keeps_finished_stages(job: Path, inside, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this sandbox does not allow mounting")
    try:
        out = disk / "out"
        done = inside("run", job, "--device", job.with_name("exact.toml"), "--out", out)
        assert done.returncode == 2, done.stderr
        assert "No space left" in done.stderr
        assert "--resume" in done.stderr
        assert (out / ".run" / "1-groups.json").exists()
        assert not (out / "model.onnx").exists()
        assert not list(out.rglob("*.partial"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_usage_errors_end_with_2(inside) -> None:  # type: ignore[no-untyped-def]
    for arguments in (
        ["rnu"],
        ["run"],
        ["run", "job.toml"],
        ["run", "a", "--device", "x", "--bogus"],
    ):
        done = inside(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert done.stdout == ""
        assert "error" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--json >&-", 2, "error: --json needs an open standard output"),
        ("--json > /dev/full", 2, "error: standard output: No space left on device"),
        ("--json | true", 2, ""),
        ("2>&1 | true", 2, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_outputs_that_are_closed_or_full(words: str, code: int, said: str) -> None:
    command = f"{sys.executable} -m edgeprune methods {words}"
    if "|" in words:
        command = f"set -o pipefail; {command}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.rstrip().endswith(said)
    assert "Traceback" not in done.stderr


def test_interrupt_ends_with_130_and_leaves_no_orphan(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "edgeprune",
        "run",
        job,
        "--device",
        "mobile_cpu",
        "--out",
        out,
    ]
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    workers = wait_for_children(process.pid, "worker.py", 120)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in stderr
    wait_until_ended(workers)
