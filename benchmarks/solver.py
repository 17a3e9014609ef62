"""How long the exact allocator takes on chains of groups, and the gap that it proves.

    make bench-solver
    python benchmarks/solver.py --keep solver.json

Losses fall with width as powers of the share that is cut; prices of pairs are products of widths,
with an overhead a layer and 5 % of noise. The budget is half of the dense cost.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from edgeprune.allocation.exact import solve
from edgeprune.allocation.problem import LayerTerm, Problem
from edgeprune.store import write_text

CASES = ((9, 12, 1e-4, 60.0), (37, 16, 1e-4, 60.0), (100, 16, 1e-3, 60.0), (300, 16, 2e-3, 60.0))


def chain(groups: int, widths: int, seed: int = 0) -> Problem:
    random = np.random.default_rng(seed)
    options = np.arange(1, widths + 1)
    losses = tuple(
        tuple(size * (1 - options / widths) ** power)
        for size, power in zip(
            random.uniform(0.1, 2, groups), random.uniform(1, 3, groups), strict=True
        )
    )
    layers = []
    for g in range(groups - 1):
        noise = random.uniform(0.95, 1.05, (widths, widths))
        costs = 0.5 + random.uniform(0.2, 2) * np.outer(options, options) * noise / 16
        layers.append(LayerTerm(f"l{g}", g, g + 1, costs))
    offered = (tuple(int(16 * k) for k in options),) * groups
    return Problem(tuple(f"g{g}" for g in range(groups)), offered, losses, tuple(layers), 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", type=Path, default=Path("solver.json"))
    given = parser.parse_args()
    rows = []
    for groups, widths, gap, seconds in CASES:
        problem = chain(groups, widths)
        budget = 0.5 * problem.cost(problem.dense)
        started = time.monotonic()
        found = solve(problem, budget, gap=gap, seconds=seconds)
        took = time.monotonic() - started
        proven = found.gap if found else None
        rows.append(
            {"groups": groups, "widths": widths, "asked": gap, "gap": proven, "seconds": took}
        )
        print(rows[-1], flush=True)
        write_text(given.keep, json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
