"""Train the dense network and write dense.safetensors (a minute on one core).

    .venv/bin/python examples/regression/train.py

Adam under a one-cycle learning rate on the mean squared error; seed and order are fixed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from data import VARIANCE, load, loss
from model import build

from edgeprune import Data


def mse(model: nn.Module, data: Data) -> float:
    """Return the mean squared error on the test data, in squared grey levels."""
    with torch.inference_mode():
        errors = [VARIANCE * float(loss(model(x), y)) * len(y) for x, y in data.test or ()]
    return sum(errors) / sum(len(y) for _, y in data.test or ())


def train(epochs: int, seed: int) -> tuple[nn.Module, float]:
    """Return the network after `epochs` passes, and its error on test data."""
    data = load()
    torch.manual_seed(seed)
    batches = list(data.train or ())
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    print(f"variance of the targets {float(targets.var()):.0f}")
    model = build().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    total = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=total)
    started = time.monotonic()
    middle, scale = targets.mean(0), VARIANCE**0.5  # what is learned has mean 0 and variance 1
    for epoch in range(epochs):
        for index in torch.randperm(len(inputs)).split(len(batches[0][0])):
            optimizer.zero_grad(set_to_none=True)
            loss(middle + scale * model(inputs[index]), targets[index]).backward()
            optimizer.step()
            schedule.step()
        seconds = time.monotonic() - started
        print(f"pass {epoch + 1} of {epochs}, {seconds:.0f} s", flush=True)
    with torch.no_grad():  # grey levels come out
        model[2].weight.mul_(scale)
        model[2].bias.mul_(scale).add_(middle)
    return model.eval(), mse(model, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("dense.safetensors"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, error = train(arguments.epochs, arguments.seed)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, arguments.out, metadata={"test_mse": f"{error:.1f}", "licence": "Apache-2.0"})
    print(f"test MSE {error:.1f}: {arguments.out}")


if __name__ == "__main__":
    main()
