"""A whole job on disk, small enough to run in seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.export.synthetic import write_convolutions

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    ).eval()
"""

DATA = '''
import torch
import edgeprune


def images(count, seed):
    """Four classes: a bright quadrant each, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    x = torch.randn(count, 1, 12, 12, generator=generator)
    for k in range(4):
        rows, columns = slice(6 * (k // 2), 6 * (k // 2) + 6), slice(6 * (k % 2), 6 * (k % 2) + 6)
        patch = x[labels == k]
        patch[:, :, rows, columns] += 1.5
        x[labels == k] = patch
    return x, labels


def load(seed=0):
    def batches(count, offset):
        x, y = images(count, offset)
        return list(zip(x.split(64), y.split(64)))

    train = batches(1024, 1)
    return edgeprune.Data(train[0][0][:1], train, batches(192, 2), batches(256, 3), test=batches(256, 4))
'''

JOB = """\
# edgeprune run job.toml --device exact.toml
name = "quadrants"
[model]
factory = "model:build"
weights = "dense.safetensors"
[data]
factory = "data:load"
[budget]
latency = "60%"
max_accuracy_drop = 0.05
[prune]
calibration_samples = 128
[recover]
steps = 40
"""

DEVICE = """\
# edgeprune run job.toml --device exact.toml
title = "An exact staircase"
kind = "cpu"
runtime = "simulated"
transport = "simulated"
unit = "us"
figure = "estimated"
[simulation]
step = 4
noise = 0.0
macs_per_us = 2000.0
"""

TRAIN = """
import sys
sys.path.insert(0, ".")
import torch
from safetensors.torch import save_file
from data import load
from model import build
torch.manual_seed(0)
model, data = build().train(), load()
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(6):
    for x, y in data.train:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
save_file(model.state_dict(), "dense.safetensors")
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, data, trained weights, job and device profile."""
    folder = tmp_path_factory.mktemp("job")
    for name, text in {
        "model.py": MODEL,
        "data.py": DATA,
        "job.toml": JOB,
        "exact.toml": DEVICE,
    }.items():
        (folder / name).write_text(text)
    subprocess.run([sys.executable, "-c", TRAIN], cwd=folder, check=True, timeout=120)
    return folder


@pytest.fixture
def job(trained: Path, tmp_path: Path) -> Path:
    """A copy of the job's folder that a test may change; returns its job.toml."""
    folder = tmp_path / "job"
    folder.mkdir()
    for source in trained.iterdir():
        if source.is_file():
            (folder / source.name).write_bytes(source.read_bytes())
    return folder / "job.toml"


Done = subprocess.CompletedProcess[str]


@pytest.fixture
def edgeprune() -> Callable[..., Done]:
    """Run the real command line in a process of its own."""

    def call(*arguments: object, cwd: Path | None = None, timeout: float = 240) -> Done:
        command = [sys.executable, "-m", "edgeprune", *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
        )

    return call


@pytest.fixture
def inside(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Run the command line in this process, which spares the seconds that importing torch takes."""

    def call(*arguments: object, cwd: Path | None = None) -> Done:
        from edgeprune.cli import execute

        if cwd is not None:
            monkeypatch.chdir(cwd)
        capfd.readouterr()
        words = [str(argument) for argument in arguments]
        code = execute(words)
        out, err = capfd.readouterr()
        return Done(words, code, out, err)

    return call


@pytest.fixture
def convolutions(tmp_path: Path) -> Path:
    """The file of a model that is measured in no time: three small convolutions."""
    return write_convolutions(tmp_path / "model.onnx", 3, channels=8, size=8)


@pytest.fixture
def profile(
    inside: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Arguments of `edgeprune profile` -> (exit code, stdout, stderr); its cache is in `tmp_path`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        done = inside("profile", *arguments)
        return done.returncode, done.stdout, done.stderr

    return call
