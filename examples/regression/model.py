"""A regression network: 128 inputs, 1,024 sigmoid units, 10 outputs."""

from __future__ import annotations

import torch
from torch import nn

INPUTS, HIDDEN, OUTPUTS = 128, 1024, 10


def build() -> nn.Module:
    """Return the network in eval mode with untrained weights; the job adds `dense.safetensors`."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Sigmoid(), nn.Linear(HIDDEN, OUTPUTS)).eval()
