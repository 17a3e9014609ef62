from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import torch

FILE = Path(__file__).resolve().parents[2] / "examples/fashion_mnist/model.py"
model_module = SimpleNamespace(**runpy.run_path(str(FILE)))


def test_the_network_has_the_size_asked_for_and_runs() -> None:
    network = model_module.build()
    assert not network.training
    assert 300_000 <= sum(p.numel() for p in network.parameters()) <= 800_000
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_network_is_built_reproducibly() -> None:
    first, second = model_module.build().state_dict(), model_module.build().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_other_sizes() -> None:
    small = model_module.build(widths=(8, 16, 16), blocks=(2, 1, 1), classes=3)
    with torch.inference_mode():
        assert small(torch.zeros(1, 1, 28, 28)).shape == (1, 3)
    skips = [
        type(m.shortcut).__name__
        for m in small.modules()
        if isinstance(m, model_module.ResidualBlock)
    ]
    assert skips == ["Identity", "Identity", "Sequential", "Sequential"]
