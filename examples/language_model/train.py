"""Train the dense language model and write dense.safetensors.

    .venv/bin/python examples/language_model/train.py        (about 5 minutes on 2 cores)

Adam (arXiv 1412.6980) under a one-cycle learning rate, gradients clipped at a norm of 1. The state
of best validation perplexity is saved. Seed, threads and order of the data are fixed.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from data import load, negative_log_perplexity
from model import build


def perplexity(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Return exp(mean cross-entropy a character) over `batches`."""
    model.eval()
    with torch.inference_mode():
        total = sum(-negative_log_perplexity(model(x), y) * len(y) for x, y in batches)
    return math.exp(total / sum(len(y) for _, y in batches))


def train(passes: int, seed: int) -> nn.Module:
    """Return the network after `passes` over the training text, in its best state."""
    torch.manual_seed(seed)
    data = load(seed)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 5e-3, total_steps=passes * len(data.train), pct_start=0.15
    )
    best, state, started = math.inf, copy.deepcopy(model.state_dict()), time.monotonic()
    for number in range(1, passes + 1):
        model.train()
        running = 0.0
        for x, y in data.train:
            loss = data.loss(model(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            running += loss.item() / len(data.train)
        found = perplexity(model, data.validation)
        if found < best:
            best, state = found, copy.deepcopy(model.state_dict())
        print(
            f"pass {number}/{passes}: training perplexity {math.exp(running):.3f}, "
            f"validation {found:.3f}, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    model.load_state_dict(state)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("dense.safetensors"))
    arguments = parser.parse_args()
    model = train(arguments.passes, arguments.seed)
    figure = perplexity(model, load().test)
    partial = arguments.out.with_suffix(".partial")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"test_perplexity": f"{figure:.4f}", "licence": "Apache-2.0"}
    save_file(state, partial, metadata=metadata)
    partial.replace(arguments.out)
    print(f"test perplexity {figure:.4f}: {arguments.out}")


if __name__ == "__main__":
    main()
