"""Train the dense network of this job and write dense.safetensors.

    make train        (about 40 minutes on 2 cores)
    .venv/bin/python examples/fashion_mnist/train.py --size small    (some 12 minutes on 1 core)

The second line trains the network of microcontroller.toml and writes small.safetensors.

SGD with Nesterov momentum under a one-cycle learning rate (Smith, arXiv 1708.07120), label
smoothing 0.05, and an exponential moving average of the weights, which is what is saved. Seed,
number of threads and order of the data are fixed: the same machine and versions give the same file.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from data import Batches, read, split
from model import build, build_small


class Size(NamedTuple):
    """A network, the passes over the data that its weights took, and the threads."""

    build: Callable[[], nn.Module]
    epochs: int
    threads: int


SIZES = {"dense": Size(build, 15, 2), "small": Size(build_small, 30, 1)}


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy on images [N, 1, 28, 28] and labels [N]."""
    model.eval()
    with torch.inference_mode():
        hits = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
    return hits / len(labels)


def recalibrate(model: nn.Module, batches: list[Tensor]) -> None:
    """Recompute the BatchNorm statistics of averaged weights from the given batches."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain average over the batches
    model.train()
    with torch.no_grad():
        for images in batches:
            model(images)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def train(size: str, epochs: int, limit: int | None, seed: int) -> nn.Module:
    """Return the averaged network after `epochs` passes over the training images."""
    torch.manual_seed(seed)
    images, labels = read("train")
    chosen, held_out, _ = split(len(labels))
    data = Batches(images[chosen], labels[chosen], 128, augment=True, seed=seed)
    model = SIZES[size].build().to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    total = limit or epochs * len(data)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.15, total_steps=total, pct_start=0.2
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    step, started = 0, time.monotonic()
    while step < total:
        for x, y in data:
            model.train()
            loss = criterion(model(x.to(memory_format=torch.channels_last)), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            keep = min(0.998, step / (step + 10))
            with torch.no_grad():
                for mean, new in zip(average.parameters(), model.parameters(), strict=True):
                    mean.lerp_(new, 1 - keep)
            if step % 50 == 0:
                seconds = time.monotonic() - started
                print(f"step {step}/{total} loss {loss.item():.3f} {seconds:.0f} s", flush=True)
            if step >= total:
                break
        if step % len(data) == 0 or step >= total:
            recalibrate(average, [images[chosen[i : i + 500]] for i in range(0, 5000, 500)])
            figure = accuracy(average, images[held_out], labels[held_out])
            print(f"step {step}/{total} validation accuracy {figure:.4f}", flush=True)
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, help="passes over the data")
    parser.add_argument(
        "--steps", type=int, help="stop after this many steps (to check reproducibility)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=sorted(SIZES), default="dense", help="which network")
    parser.add_argument("--out", type=Path, help="file to write (default: SIZE.safetensors)")
    arguments = parser.parse_args()
    out = arguments.out or Path(__file__).with_name(f"{arguments.size}.safetensors")
    chosen = SIZES[arguments.size]
    torch.set_num_threads(chosen.threads)
    epochs = arguments.epochs or chosen.epochs
    model = train(arguments.size, epochs, arguments.steps, arguments.seed)
    figure = accuracy(model, *read("t10k"))
    partial = out.with_suffix(".partial")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, partial, metadata={"test_accuracy": f"{figure:.4f}", "licence": "Apache-2.0"})
    partial.replace(out)
    print(f"test accuracy {figure:.4f}: {out}")


if __name__ == "__main__":
    main()
