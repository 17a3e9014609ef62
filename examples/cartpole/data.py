"""States of CartPole that the dense policy came through, with its own choice as the label."""

from __future__ import annotations

from pathlib import Path

import torch
from model import policy
from safetensors.torch import load_file
from torch import Tensor

from edgeprune import Data

STATES = Path(__file__).with_name("states.safetensors")
TRAIN, CALIBRATION, HELD_OUT = 8000, 2000, 2000  # of 12,000 states; calibration is part of train
BATCH = 100


def agreement(output: Tensor, target: Tensor) -> float:
    """Return in which share of the states [N] the greedy action is the dense policy's."""
    return float((output.argmax(1) == target).float().mean())


def load() -> Data:
    """Return 8,000 states for recovery, 2,000 for validation and 2,000 for the final figures.

    No label is needed: the target is the action that the dense policy takes.
    """
    states = load_file(STATES)["states"]
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))
    states = states[order]
    with torch.no_grad():  # targets enter losses that are differentiated
        actions = policy()(states).argmax(1)

    def part(start: int, count: int) -> list[tuple[Tensor, Tensor]]:
        chosen = slice(start, start + count)
        return list(zip(states[chosen].split(BATCH), actions[chosen].split(BATCH), strict=True))

    return Data(
        example_inputs=states[:1],
        train=part(0, TRAIN),
        calibration=part(0, CALIBRATION),
        validation=part(TRAIN, HELD_OUT),
        test=part(TRAIN + HELD_OUT, HELD_OUT),
        metric=agreement,
    )
