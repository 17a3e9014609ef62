"""Dead pixels of a sensor: 10 pixels of a patch from the 128 others, on Fashion-MNIST.

Filling in pixels from their neighbours is a task on which a linear map is known to come far. The
images are found, checked and split by the other example.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from edgeprune import Data

ROWS, COLUMNS = 6, 23
DEAD = (
    *(2 * COLUMNS + c for c in (2, 6, 10, 14, 18)),
    *(3 * COLUMNS + c for c in (4, 8, 12, 16, 20)),
)
ALIVE = tuple(place for place in range(ROWS * COLUMNS) if place not in DEAD)
VARIANCE = 8532.0  # of the targets of the training data, in squared grey levels
BATCH = 250


def _images() -> ModuleType:
    name = "fashion_mnist_data"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "fashion_mnist" / "data.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def explained(output: Tensor, target: Tensor) -> float:
    """Return 1 - mean squared error / variance of the targets; 1 is best."""
    return 1.0 - float((output - target).square().mean()) / VARIANCE


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error in units of the variance."""
    return (output - target).square().mean() / VARIANCE


def patches(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return (live pixels [N, 128] in [0, 1], dead ones [N, 10] in grey levels 0 to 255).

    Each image gives one patch, whose place is drawn.

    Args:
        images: normalised images [N, 1, 28, 28].
        seed: of the places.
    """
    module = _images()
    pixels = (images[:, 0] * module.STD + module.MEAN).clamp(0, 1)
    generator = torch.Generator().manual_seed(seed)
    top = torch.randint(0, 28 - ROWS + 1, (len(images),), generator=generator)
    left = torch.randint(0, 28 - COLUMNS + 1, (len(images),), generator=generator)
    rows = top[:, None] + torch.arange(ROWS)
    columns = left[:, None] + torch.arange(COLUMNS)
    found = pixels[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    found = found.flatten(1)
    return found[:, ALIVE], (255 * found[:, DEAD]).round()


def load() -> Data:
    """Return 55,000 patches for training, 5,000 for validation and 10,000 for the final figures."""
    module = _images()
    images, _ = module.read("train")
    train, validation, calibration = module.split(len(images))
    parts = {
        "train": patches(images[train], 1),
        "validation": patches(images[validation], 2),
        "calibration": patches(images[calibration], 3),
        "test": patches(module.read("t10k")[0], 4),
    }
    batches = {
        name: list(zip(x.split(BATCH), y.split(BATCH), strict=True))
        for name, (x, y) in parts.items()
    }
    return Data(example_inputs=parts["train"][0][:1], loss=loss, metric=explained, **batches)
