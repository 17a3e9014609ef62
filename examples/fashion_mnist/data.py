"""Fashion-MNIST (Xiao et al., arXiv 1708.07747): find it, check it, serve it in batches.

The four files are looked for in $EDGEPRUNE_DATA, in the folder of Debian's package
dataset-fashion-mnist, and in the per-user cache. If none has them, the Debian package is fetched
and unpacked without root, and failing that the files are fetched from the data set's public home.
Whatever the source, the unpacked contents must have the known SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from edgeprune import Data

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
PUBLIC_HOME = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FILES = tuple(f"{name}.gz" for name in SHA256)
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training images scaled to [0, 1]
VALIDATION, CALIBRATION = 5000, 2000  # images held out of the 60,000, and drawn from the rest


class DataNotFoundError(RuntimeError):
    """The data set is nowhere to be found and could not be fetched."""


def load(seed: int = 0) -> Data:
    """Return the data of the job: 55,000 training, 5,000 validation and 10,000 test images.

    Args:
        seed: order and augmentation of the training batches; the split is always the same.
    """
    images, labels = read("train")
    train, validation, calibration = split(len(labels))
    test_images, test_labels = read("t10k")
    return Data(
        example_inputs=images[:1],
        train=Batches(images[train], labels[train], 64, augment=True, seed=seed),
        calibration=Batches(images[calibration], labels[calibration], 100),
        validation=Batches(images[validation], labels[validation], 500),
        test=Batches(test_images, test_labels, 500),
    )


def split(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of (train, validation, calibration); calibration is part of train."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(20201121))
    train, validation = order[VALIDATION:], order[:VALIDATION]
    return train, validation, train[:CALIBRATION]


class Batches:
    """Batches of (images [N, 1, 28, 28], labels [N]); can be iterated any number of times.

    With `augment`, every pass has a new order, mirrored and shifted images and small erased
    squares, all drawn from `seed` and the number of the pass.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, size: int, *, augment: bool = False, seed: int = 0
    ) -> None:
        self.images, self.labels, self.size = images, labels, size
        self.augment, self.seed, self.passes = augment, seed, 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.size)
        return full + (rest > 0 and not self.augment)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.augment:
            pairs = zip(self.images.split(self.size), self.labels.split(self.size), strict=True)
            yield from pairs
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.passes)
        self.passes += 1
        order = torch.randperm(len(self.labels), generator=generator)
        for start in range(0, len(self) * self.size, self.size):
            index = order[start : start + self.size]
            yield augmented(self.images[index], generator), self.labels[index]


def augmented(images: Tensor, generator: torch.Generator, shift: int = 2, hole: int = 7) -> Tensor:
    """Mirror half of the images, shift each by up to `shift` pixels, erase a square in half."""
    count, _, height, width = images.shape
    floor = (0.0 - MEAN) / STD
    mirror = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    padded = torch.nn.functional.pad(images, (shift,) * 4, value=floor)
    top, left = torch.randint(0, 2 * shift + 1, (2, count), generator=generator)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    images = padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    row, column = torch.randint(0, height, (2, count), generator=generator)
    erase = torch.rand(count, generator=generator) < 0.5
    inside_rows = (torch.arange(height) - row[:, None]).abs() <= hole // 2
    inside_columns = (torch.arange(width) - column[:, None]).abs() <= hole // 2
    holes = inside_rows[:, :, None] & inside_columns[:, None, :] & erase[:, None, None]
    return images.masked_fill(holes, floor)[:, None]


def read(part: str) -> tuple[Tensor, Tensor]:
    """Return normalised images [N, 1, 28, 28] and labels [N] of `part` ("train" or "t10k")."""
    pixels = contents(f"{part}-images-idx3-ubyte")[16:]
    labels = contents(f"{part}-labels-idx1-ubyte")[8:]
    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, 1, 28, 28)
    targets = torch.frombuffer(bytearray(labels), dtype=torch.uint8)
    return (images.float() / 255 - MEAN) / STD, targets.long()


def contents(name: str) -> bytes:
    """Return the checked, unpacked contents of one of the four files."""
    path = folder() / f"{name}.gz"
    try:
        unpacked = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataNotFoundError(
            f"{path} cannot be unpacked ({error}); delete it and run again"
        ) from None
    if hashlib.sha256(unpacked).hexdigest() != SHA256[name]:
        raise DataNotFoundError(f"{path} is not Fashion-MNIST's {name}; delete it and run again")
    return unpacked


def folder() -> Path:
    """Return a folder that holds the four files, fetching them into the user's cache if needed.

    Raises:
        DataNotFoundError: nothing found and nothing fetched; the message lists what was tried.
    """
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprune/fashion-mnist"
    )
    candidates = [DEBIAN_FOLDER, cache]
    if root := os.environ.get("EDGEPRUNE_DATA"):
        candidates = [Path(root), Path(root) / "fashion-mnist", *candidates]
    for candidate in candidates:
        if all((candidate / name).is_file() for name in FILES):
            return candidate
    tried = [f"no data in {candidate}" for candidate in candidates]
    for fetch in (fetch_debian_package, fetch_public_home):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                fetched = fetch(Path(scratch))
                cache.mkdir(parents=True, exist_ok=True)
                for name in FILES:
                    partial = cache / f"{name}.partial-{os.getpid()}"
                    shutil.copyfile(fetched / name, partial)
                    partial.replace(cache / name)
            except (OSError, subprocess.SubprocessError, http.client.HTTPException) as error:
                tried.append(f"{fetch.__name__.replace('_', ' ')}: {error}")
                continue
            return cache
    raise DataNotFoundError(
        "Fashion-MNIST was not found and could not be fetched:\n  "
        + "\n  ".join(tried)
        + "\nPut its four .gz files into a folder and name that folder in EDGEPRUNE_DATA."
    )


def fetch_debian_package(scratch: Path) -> Path:
    """Download Debian's package and unpack it into `scratch`; needs no root."""
    _call(["apt-get", "download", DEBIAN_PACKAGE], scratch)
    archives = sorted(scratch.glob("*.deb"))
    if not archives:
        raise OSError("apt-get left no package")
    _call(["dpkg-deb", "-x", archives[0].name, "."], scratch)
    return scratch / DEBIAN_FOLDER.relative_to("/")


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        raise OSError(done.stderr.strip() or f"{command[0]} failed")


def fetch_public_home(scratch: Path) -> Path:
    """Download the four files from the data set's public home into `scratch`."""
    for name in FILES:
        with urllib.request.urlopen(PUBLIC_HOME + name, timeout=60) as answer:
            (scratch / name).write_bytes(answer.read())
    return scratch
