"""Time of the reference network's sensitivity curves, and how sure the order of cuts is.

    make bench-curves [DEVICE=mobile_cpu]

The reference network is that of examples/fashion_mnist, the widths are those that the table of the
device offers. Run it on an idle machine. Parts are timed once each, on two threads.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from edgeprune.devices.opening import open_device
from edgeprune.identity import curves_base
from edgeprune.importance import prefix
from edgeprune.importance.kept import CurveStore
from edgeprune.importance.sensitivity import agreement, best_curves, sensitivity_curves
from edgeprune.job import load_job
from edgeprune.pipeline import load, prices_of
from edgeprune.records import SensitivityCurve
from edgeprune.report.console import Console
from edgeprune.sections import BudgetSection
from edgeprune.stages import base, weighing
from edgeprune.store import RunFolder

JOB = Path(__file__).parents[1] / "examples/fashion_mnist/job.toml"
SAMPLES = (100, 200, 400, 600, 1000, 2000)  # the last: all calibration samples of the example
THREADS = 2
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="mobile_cpu")
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    job = load_job(JOB)
    sums = job.prune.model_copy(update={"loss": "importance"})  # prices now, curves below
    look = {"budget": BudgetSection(latency="100%"), "prune": sums}
    model, data = load(job, JOB.parent)
    with (
        tempfile.TemporaryDirectory() as scratch,
        RunFolder(Path(scratch) / "run", {}, resume=False) as folder,
    ):
        device = open_device(asked.device)
        this = base.Run(job.model_copy(update=look), model, data, device, folder, Console())
        prices = prices_of(this, look=True)
        store = CurveStore(Path(scratch) / "curves", curves_base(model, data, job.prune))
        scoring, scores = timed(lambda: weighing.score(job, model, data, prices.groups))
        widths = prices.table.widths
        curves = partial(sensitivity_curves, model, data, widths, scores)
        samples = job.prune.calibration_samples
        fresh, found = timed(lambda: curves(samples=samples, store=store))
        again, _ = timed(lambda: curves(samples=samples, store=store))
        prefix.MEMORY = 0.0  # of what is free: no prefix is kept
        whole, same = timed(lambda: curves(samples=samples))
        if same != found:
            raise RuntimeError("prefixes change the curves")
        prefix.MEMORY = 0.25
    offered = sum(len(of) - 1 for of in widths.values())
    cuts = sum(len(curve.widths) - 1 for curve in found)
    print(
        f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} processors, "
        f"{THREADS} threads, torch {torch.__version__}; {asked.device}: {len(widths)} groups, "
        f"{offered} narrower widths, {len(scores)} criteria, {cuts} cuts"
    )
    print(f"scores {scoring:.1f} s; curves {fresh:.1f} s, without prefixes {whole:.1f} s")
    print(f"curves read again {again:.3f} s")
    by_samples = {count: best_curves(curves(samples=count)) for count in SAMPLES}
    for count, best in by_samples.items():
        print(told(count, best, by_samples[SAMPLES[-1]]), flush=True)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that `work` takes, and what it returns."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def told(
    count: int, best: Mapping[str, SensitivityCurve], most: Mapping[str, SensitivityCurve]
) -> str:
    """Return how the curves of `count` samples compare with those of the `most` samples."""
    alike = sum(best[name].criterion == most[name].criterion for name in most)
    paired = {  # ranks of the two are compared as those of halves are
        name: best[name].model_copy(update={"even": most[name].increases, "odd": curve.increases})
        for name, curve in best.items()
    }
    agreed = agreement(best)
    return (
        f"{count:5d} samples: halves agree to {'-' if agreed is None else f'{agreed:.3f}'}, "
        f"rank correlation with {SAMPLES[-1]} samples {agreement(paired):.3f}, "
        f"the same criterion in {alike} of {len(most)} groups"
    )


if __name__ == "__main__":
    main()
