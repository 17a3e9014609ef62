from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from edgeprune import Data, pipeline
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import load_spec
from edgeprune.job import load_job
from edgeprune.loading import load_weights
from edgeprune.report.console import Console

FOLDER = Path(__file__).resolve().parents[2] / "examples/regression"
OWN = ("model", "data", "train", "compare")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Name -> module of the example; other examples have modules of the same names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = {name: sys.modules.pop(name) for name in OWN if name in sys.modules}

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield module
    for name in OWN:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def _images(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """Put images in place of Fashion-MNIST: smooth random ones, so that rows follow rows."""
    source = module._images()

    def read(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        count = {"train": 6500, "t10k": 500}[part]
        generator = torch.Generator().manual_seed(len(part))
        noise = torch.rand(count, 1, 7, 7, generator=generator)
        pixels = nn.functional.interpolate(noise, (28, 28), mode="bilinear")
        return (pixels - source.MEAN) / source.STD, torch.zeros(count, dtype=torch.long)

    monkeypatch.setattr(source, "read", read)


def test_the_job_opens_with_its_command() -> None:
    text = (FOLDER / "job.toml").read_text()
    assert text.startswith("# edgeprune run examples/regression/job.toml --device mobile_cpu\n")
    assert load_job(FOLDER / "job.toml").collapse.enabled


def test_patches_are_live_pixels_and_the_dead_ones_between_them(load) -> None:  # type: ignore[no-untyped-def]
    module = load("data")
    source = module._images()
    levels = torch.arange(28.0)[:, None] * 9 + torch.arange(28.0)[None] * 0.25
    image = ((levels / 255 - source.MEAN) / source.STD).expand(4, 1, 28, 28)
    inputs, targets = module.patches(image, seed=0)
    assert inputs.shape == (4, 128)
    assert targets.shape == (4, 10)
    assert len({*module.DEAD, *module.ALIVE}) == 6 * 23
    for column, place in enumerate(module.DEAD):
        left = inputs[:, module.ALIVE.index(place - 1)] * 255
        above = inputs[:, module.ALIVE.index(place - 23)] * 255
        assert torch.allclose(targets[:, column], left + 0.25, atol=0.51)  # targets are rounded
        assert torch.allclose(targets[:, column], above + 9, atol=0.51)


def test_score_and_points_by_hand(load) -> None:  # type: ignore[no-untyped-def]
    module = load("compare")
    assert module.score(1.0, 0.0) == 1.0
    assert module.score(0.81, 190.0) == pytest.approx(0.729 * 0.729)
    assert module.score(0.99, 1000.0) == module.score(0.99, 5000.0) == 0.0
    assert module.points(0.0) == module.points(0.085) == 0.0
    assert module.points(0.5175) == pytest.approx(0.75)
    assert module.points(0.95) == module.points(1.0) == pytest.approx(1.5)


def test_all_networks_are_as_sparse_as_the_collapsed_one(load, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    module = load("compare")
    _images(monkeypatch, load("data"))
    data, dense = load("data").load(), load("model").build()
    found = [(name, eps, module.sparsity(m)) for name, eps, m in module.networks(dense, data, 0)]
    assert [name for name, _, _ in found] == [
        "physical collapse", *["masked bridge"] * 3, "magnitude", "random",
    ]  # fmt: skip
    assert found[0][2] == 1 - (128 * 10 + 10) / (1024 * 129 + 10 * 1025)
    for _, _, share in found[1:]:
        assert share == pytest.approx(found[0][2], abs=0.009)  # biases of 1,024 units stay


def test_training_holds_zeros(load, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    module = load("compare")
    _images(monkeypatch, load("data"))
    data, dense = load("data").load(), load("model").build()
    *_, (_, _, masked) = module.networks(dense, data, 0)
    after = module.trained(masked, data, 3, 0)
    assert torch.equal(after[0].weight == 0, masked[0].weight == 0)
    assert not torch.equal(after[0].weight, masked[0].weight)


def test_the_job_collapses_on_the_simulated_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job(FOLDER / "job.toml")
    job = job.model_copy(update={"recover": job.recover.model_copy(update={"steps": 20})})
    model, data = _job(monkeypatch)
    device = SimulatedDevice(load_spec("simulated"))
    result = pipeline.run(job, model, data, device, tmp_path / "out", console=Console(quiet=True))
    assert result.verdict.prepared is not None
    (tried,) = result.verdict.prepared.collapses
    assert tried.accepted, tried.reason
    assert result.verdict.slim.parameters == 1290
    assert {g.name: g.met for g in result.verdict.gates}["budget"]


def _job(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, Data]:
    """The job's model and data, on images made here."""
    from edgeprune.loading import call_factory

    module = call_factory("data:_images", FOLDER, "data")
    _images(monkeypatch, sys.modules["data"])
    assert module is sys.modules["fashion_mnist_data"]
    model = call_factory("model:build", FOLDER, "model")
    load_weights(model, FOLDER / "dense.safetensors")
    return model, call_factory("data:load", FOLDER, "data")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_beats_the_linear_map(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """On the real images: the dense network must be worth collapsing."""
    module = load("data")
    try:
        module._images().folder()
    except module._images().DataNotFoundError as error:
        pytest.skip(str(error))
    out = tmp_path / "dense.safetensors"
    command = [sys.executable, str(FOLDER / "train.py"), "--out", str(out)]
    subprocess.run(command, check=True, timeout=850)
    data, dense = module.load(), load("model").build()
    load_weights(dense, out)
    name, _, linear = next(load("compare").networks(dense, data, 0))
    assert name == "physical collapse"
    mse = load("train").mse
    assert mse(dense, data) < mse(linear, data) < module.VARIANCE / 4
