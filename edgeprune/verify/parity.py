"""Torch against the runtime on real inputs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from torch import nn

from edgeprune.data import Data, call, first_batches
from edgeprune.devices.protocol import Device
from edgeprune.records import Artifact, Parity
from edgeprune.verify.inference import infer

TOLERANCE = 1e-4  # of the largest output, and at least absolute
SMALL = 1e-2  # outputs below this share of the largest are compared against that share


def parity(
    model: nn.Module, device: Device, path: Path, artifact: Artifact, data: Data, samples: int = 512
) -> Parity:
    """Compare the torch model with its exported file on the first validation inputs.

    `max_rel` is the largest abs(a - b) / max(abs(b), 1 % of the largest abs(b)). Passed means that
    max_abs is at most 1e-4, or 1e-4 of the largest output where that is above 1.

    Raises:
        DeviceError: the runtime fails.
    """
    taken = first_batches(data.validation, samples, "validation")
    count, largest, worst, relative = 0, 0.0, 0.0, 0.0
    for got, (inputs, _) in islice(infer(device, path, artifact, taken, "validation"), len(taken)):
        parts = [
            call(model.eval(), tuple(x[i : i + len(data.example[0])] for x in inputs)).detach()
            for i in range(0, len(inputs[0]), len(data.example[0]))
        ]
        wanted = torch.cat(parts)
        if got.shape != wanted.shape or not bool(torch.isfinite(got - wanted).all()):
            return Parity(
                max_abs=1e308, max_rel=1e308, samples=len(wanted), passed=False, limit=TOLERANCE
            )
        difference = (got - wanted).abs()
        scale = float(wanted.abs().max())
        floor = max(SMALL * scale, 1e-12)
        worst = max(worst, float(difference.max()))
        relative = max(relative, float((difference / wanted.abs().clamp_min(floor)).max()))
        largest = max(largest, scale)
        count += len(wanted)
    limit = TOLERANCE * max(1.0, largest)
    return Parity(
        max_abs=worst, max_rel=relative, samples=count, passed=worst <= limit, limit=limit
    )
