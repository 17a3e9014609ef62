"""What a budget in instructions, MACs or RAM makes of the microcontroller example.

    make bench-budgets                                    2,000 steps of recovery a plan
    python benchmarks/budgets.py --steps 6000 --seed 0

The dense network is profiled, priced and weighed once; each plan is then recovered in the same way,
turned into int8 firmware and emulated. The plan in MACs is the one whose instructions come closest
to those of the plan in instructions from below. Instructions and bytes are exact; nothing is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edgeprune.allocation.exact import solve
from edgeprune.devices.opening import open_device
from edgeprune.identity import identity_of
from edgeprune.job import load_job
from edgeprune.pipeline import Prices, load, make, prices_of
from edgeprune.records import Verdict
from edgeprune.report.console import Console
from edgeprune.sections import BudgetSection
from edgeprune.stages import base
from edgeprune.stages.allocating import pose
from edgeprune.store import RunFolder

JOB = Path(__file__).parents[1] / "examples/fashion_mnist/microcontroller.toml"
DEVICE = "cortex_m4"
SHARE = 0.5
STEP = 0.01  # of the dense MACs, in the search for the plan in MACs


def budgets(this: base.Run, prices: Prices) -> Iterator[tuple[str, BudgetSection]]:
    """Yield names and budgets: instructions, MACs, MACs at the same instructions, RAM."""
    yield "half of the instructions", BudgetSection(latency=f"{SHARE:.0%}")
    yield "half of the MACs", BudgetSection(macs=f"{SHARE:.0%}")
    share, dense, table = SHARE, prices.dense, prices.table
    while True:
        budget = BudgetSection(macs=f"{100 * share:.0f}%")
        run = replace(this, job=this.job.model_copy(update={"budget": budget}))
        problem = pose(run, prices.groups, dense, table, prices.curves)
        found = solve(problem, table.dense_cost, seed=this.job.seed)
        if found is not None and found.cost <= SHARE * table.dense_cost:
            break
        share -= STEP
    yield f"MACs to {share:.0%}", budget
    assert dense.runtime_peak_bytes is not None
    kilobytes = SHARE * dense.runtime_peak_bytes / 1024
    yield "half of the RAM", BudgetSection(ram_kb=kilobytes)


def row(name: str, verdict: Verdict) -> str:
    """Return a line of the table."""
    dense, slim = verdict.dense, verdict.slim
    assert dense.footprint is not None
    assert slim.footprint is not None
    shares = [
        slim.cost / dense.cost,
        slim.macs / dense.macs,
        slim.footprint.ram_bytes / dense.footprint.ram_bytes,
        slim.footprint.flash_bytes / dense.footprint.flash_bytes,
    ]
    widths = " ".join(str(after) for _, after in verdict.plan.widths.values())
    cells = [name, f"{slim.cost:,.0f}", *(f"{100 * share:.1f} %" for share in shares)]
    cells += [f"{verdict.recalibrated_accuracy:.4f}", f"{slim.accuracy:.4f}", widths]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="of recovery")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    job = load_job(JOB).with_overrides(seed=arguments.seed)
    recover = job.recover.model_copy(update={"steps": arguments.steps})
    job = job.model_copy(update={"recover": recover})
    model, data = load(job, JOB.parent)
    device = open_device(DEVICE)
    with (
        tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch,
        RunFolder(Path(scratch), identity_of(job, model, data, device), resume=False) as folder,
    ):
        this = base.Run(job, model, data, device, folder, Console(quiet=True))
        prices = prices_of(this)
        heads = ("budget", "instructions", "of dense", "MACs", "RAM", "flash")
        print(f"| {' | '.join((*heads, 'recalibrated', 'int8', 'widths'))} |")
        print("|---|---|---|---|---|---|---|---|---|")
        for number, (name, budget) in enumerate(budgets(this, prices)):
            asked = job.model_copy(update={"budget": budget})
            made = make(replace(this, job=asked, attempt=f"{number}-"), prices)
            verdict = made.verification.verdict
            print(row(name, verdict), flush=True)
        whole = verdict.dense
        print(f"dense: {whole.cost:,.0f} instructions, accuracy in float32 {whole.accuracy:.4f}")
        print(f"recovery: {job.recover.steps} steps, seed {job.seed}")


if __name__ == "__main__":
    main()
