"""Random networks brought to random budgets: does the closed loop end where it should?

    make bench-pairs                                        20 networks, about a minute each
    python benchmarks/pairs.py --keep FILE --count 20 --device mobile_cpu

Each network is drawn with its budget: plain, residual or depthwise separable, 3 to 6 layers of
drawn widths on images of a drawn size, and 25 to 80 % of its measured cost. It is profiled, priced
and allocated as in any job; nothing is trained, and the loss is the sum of removed l2 scores, since
only the cost is looked at. Plans should end in [97 %, 100 %] of the budget, or say what holds them.
Finished pairs are kept and not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.allocation.closed_loop import FULL_USE
from edgeprune.data import Data
from edgeprune.devices.opening import open_device
from edgeprune.job import Job
from edgeprune.pipeline import plan_only
from edgeprune.report.console import Console
from edgeprune.store import write_text

CLASSES = 10
KINDS = ("plain", "residual", "separable")


def convolution(a: int, b: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with BatchNorm and ReLU behind it."""
    layer = nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(b), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions and a skip connection."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.one, self.two = convolution(width, inner, 3), nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.two(self.one(x)))


def drawn(seed: int) -> tuple[str, nn.Module, tuple[int, ...], float]:
    """Return kind, network, shape of its input and budget number `seed`."""
    random = np.random.default_rng([71, seed])
    torch.manual_seed(seed)
    kind, size = KINDS[seed % len(KINDS)], int(random.choice([24, 32, 48, 64]))
    widths = [int(w) for w in random.integers(3, 17, int(random.integers(3, 7))) * 8]
    layers: list[nn.Module] = [convolution(3, widths[0], 3, 2)]
    for index, (a, b) in enumerate(itertools.pairwise(widths)):
        stride = 2 if index % 2 else 1
        if kind == "separable":
            layers += [convolution(a, a, 3, stride, groups=a), convolution(a, b, 1)]
        else:
            layers.append(convolution(a, b, 3, stride))
        if kind == "residual":
            layers.append(Residual(b, int(random.integers(3, 17)) * 8))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES)]
    return kind, nn.Sequential(*layers).eval(), (1, 3, size, size), float(random.uniform(0.25, 0.8))


def pair(seed: int, device_name: str) -> dict[str, object]:
    """Bring network number `seed` to its budget; return what came out."""
    kind, model, shape, share = drawn(seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, *shape[1:], generator=generator)
    batches = [(x, torch.randint(0, CLASSES, (64,), generator=generator))]
    job = Job.model_validate(
        {
            "name": f"pair{seed}",
            "model": {"factory": "in_memory:model"},
            "data": {"factory": "in_memory:data"},
            "budget": {"latency": f"{100 * share:.1f}%", "max_accuracy_drop": 1.0},
            "prune": {"importance": "l2", "loss": "importance"},
        }
    )
    data = Data(x[:1], batches, batches, batches)
    started = time.monotonic()
    found = plan_only(job, model, data, open_device(device_name), Console(quiet=True))
    plan, last = found.plan, found.plan.corrected
    return {
        "kind": kind,
        "input": shape[-1],
        "groups": len(plan.groups),
        "dense": found.table.dense_cost,
        "budget": share,
        "used": last / plan.budget,
        "share": last / found.table.dense_cost,
        "rounds": len(plan.rounds),
        "first": plan.rounds[0].measured / plan.rounds[0].predicted - 1 if plan.rounds else 0.0,
        "held_by": list(plan.held_by),
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--device", default="mobile_cpu")
    parser.add_argument("--keep", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(given.keep.read_text()) if given.keep.exists() else {}
    for seed in range(given.count):
        key = f"{given.device}/{seed}"
        if key not in rows:
            rows[key] = pair(seed, given.device)
            write_text(given.keep, json.dumps(rows, indent=1))
        row = rows[key]
        told = f", held by {', '.join(row['held_by'])}" if row["held_by"] else ""
        print(
            f"{seed:2d} {row['kind']:9s} {row['input']:2d} pixels, {row['groups']} groups, "
            f"{row['dense']:6.0f}: budget {100 * row['budget']:4.1f} %, used "
            f"{100 * row['used']:5.1f} % of it in {row['rounds']} rounds (first off by "
            f"{100 * row['first']:+.1f} %), {row['seconds']:.0f} s{told}",
            flush=True,
        )
    own = [row for key, row in rows.items() if key.startswith(f"{given.device}/")]
    inside = sum(FULL_USE <= row["used"] <= 1.0 for row in own)
    held = sum(bool(row["held_by"]) and row["used"] < FULL_USE for row in own)
    slower = sum(row["share"] >= 1.0 for row in own)
    rounds = statistics.mean(row["rounds"] for row in own)
    print(
        f"{inside} of {len(own)} inside [97 %, 100 %], {held} more say what holds them, "
        f"{slower} slower than dense; {rounds:.1f} rounds on average"
    )


if __name__ == "__main__":
    main()
