"""edgeprune against its peers at equal measured cost, on the Fashion-MNIST job.

    make bench-peers                              hours on an idle machine; goes on where it stopped
    python benchmarks/peers.py --keep DIR         keeps, and reuses, what is in DIR
    python benchmarks/peers.py --only-docs   writes the section from what is there, no more

Writes the section "Allocators at equal measured cost" of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
from pathlib import Path

from page import BENCHMARKS, write_section

from edgeprune.bench.variants import BASELINES, everything
from edgeprune.records import BenchResult
from edgeprune.report.bench_summary import condition, entries, markdown

ROOT = Path(__file__).parents[1]
JOB = ROOT / "examples" / "fashion_mnist" / "job.toml"
RUNS = (("mobile_cpu", "50%,35%,25%"), ("arm64_emulated", "50%"))
OURS = "exact"
CRITERION = "refit_error"  # that exact ranks by where recovery reconstructs
TORCH_PRUNING = ("uniform", "global", "isomorphic")
GIVEN = (*(f"{name}/{CRITERION}@8" for name in TORCH_PRUNING), f"halp/{CRITERION}")
METHODS = (*(v.label for v in everything(("taylor", "l2"))), *GIVEN)
HALVED = (0.50, 0.35)  # of the dense cost: at most half of what torch-pruning loses is the goal
KEPT = ("before", "after")  # copies of bench.json: nothing trained, and recovered


def main() -> int:
    """Run what is missing, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, default=ROOT / "bench", help="folder of the results")
    parser.add_argument("--steps", type=int, default=200, help="of recovery")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--long-seeds", default="0", help="of those trained from the beginning")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--only-docs", action="store_true")
    arguments = parser.parse_args()
    folders = [(device, arguments.keep / device / JOB.parent.name, b) for device, b in RUNS]
    named = arguments.methods.split(",")
    groups = [
        (f"{copy}{'-long' if long else ''}.json", methods, seeds, steps)
        for copy, steps in zip(KEPT, (0, arguments.steps), strict=True)
        for long, seeds in ((False, arguments.seeds), (True, arguments.long_seeds))
        if (methods := [m for m in named if (m in BASELINES) is long]) and not (long and steps == 0)
    ]
    for device, folder, budgets in [] if arguments.only_docs else folders:
        for copy, methods, seeds, steps in groups:
            words = ["bench", str(JOB), "--device", device, "--budget", budgets, "--resume"]
            words += ["--out", str(folder), "--methods", ",".join(methods), "--seeds", seeds]
            words += ["--steps", str(steps)]
            done = subprocess.run([sys.executable, "-m", "edgeprune", *words], check=False)
            if done.returncode:
                return done.returncode
            shutil.copyfile(folder / "bench.json", folder / copy)
    found = [together(folder, copy) for _, folder, _ in folders for copy in KEPT]
    write_section(BENCHMARKS, "peers", section([result for result in found if result]))
    return 0


def together(folder: Path, copy: str) -> BenchResult | None:
    """Return one result of what was compared with more seeds and with fewer, None without any."""
    paths = [path for end in ("", "-long") if (path := folder / f"{copy}{end}.json").exists()]
    found = [BenchResult.model_validate_json(path.read_bytes()) for path in paths]
    rows = tuple(row for result in found for row in result.rows)
    return found[0].model_copy(update={"rows": rows}) if found else None


def section(results: list[BenchResult]) -> str:
    """Return the section as Markdown: what was reached, and what was not."""
    lines = [
        "## Allocators at equal measured cost",
        "",
        "Every method is brought to the same cost on the device by turning its own knob",
        "(`edgeprune bench`), and recovers in the same way. `global/taylor@8` is torch-pruning's",
        "global pruning by Taylor scores, rounded to 8. `exact` is edgeprune's default, which",
        "plans for what follows: with gates and whole losses where BatchNorm is all that is",
        "recalibrated, else by short recoveries of up to eighteen plans whose channels are",
        "ranked by `refit_error` within the plan. So its plans differ between the tables, and its",
        "trials are training that the others do not do. Methods that count on sensitivity curves",
        "rank by the criterion of each group's curve, the others as their names say; those named",
        "`refit_error` are given the criterion of `exact`. Recovery reconstructs first, whoever",
        "decided the widths. A method marked *over* did not get down to the budget, and one marked",
        "*under* found no plan that uses it up. Methods that keep the same channels are trained",
        "once. Written by `make bench-peers`.",
        "",
    ]
    for result in results:
        what = f"after {result.steps} steps of recovery" if result.steps else "nothing trained"
        lines += [f"### {result.job} on {result.device}, {what}", "", f"{condition(result)}.", ""]
        runtime = result.facts.get("onnxruntime")
        machine = result.facts.get("processor") or result.facts.get("cpu")
        where = ", ".join(t for t in (machine, runtime and f"onnxruntime {runtime}") if t)
        lines += [f"{where}.", ""] if where else []
        compared = {row.method for row in result.rows}
        asked = [m for m in METHODS if result.steps or m not in BASELINES]
        left = [method for method in asked if method not in compared]
        if left:
            lines += [f"Not compared yet: {', '.join(f'`{name}`' for name in left)}.", ""]
        lines += [markdown(result), *verdicts(result), ""]
    return "\n".join(lines).rstrip() + "\n"


def verdicts(result: BenchResult) -> list[str]:
    """Return a sentence for each target and question."""
    lines = []
    for target in result.targets:
        found = [e for e in entries(result, target) if not e.over]
        ours = next((e for e in found if e.method == OURS), None)
        peers = [e for e in found if e.method != OURS]
        if ours is None or not peers:
            continue
        share = f"{100 * target:.0f} %"
        if result.steps:
            given = [e for e in peers if CRITERION in e.method]
            fresh = [e for e in peers if e.method in BASELINES]
            for among, which in (
                ([e for e in peers if e not in given + fresh], "best peer"),
                (given, f"best peer that is given its criterion `{CRITERION}`"),
            ):
                best = max(among, key=lambda e: e.accuracy, default=None)
                if best is None:
                    continue
                word = "above" if ours.accuracy > best.accuracy else "**not** above"
                if round(ours.accuracy - best.accuracy, 4) == 0.0:
                    word = "the same as"
                lines.append(
                    f"- {share}, after recovery: `{OURS}` {ours.accuracy:.4f} is {word} the "
                    f"{which}, `{best.method}` {best.accuracy:.4f}."
                )
            for one in fresh:
                word = "above" if one.accuracy > ours.accuracy else "not above"
                lines.append(
                    f"- {share}, trained from the beginning, with as many steps more as the dense "
                    f"network took: `{one.method}` {one.accuracy:.4f} is {word} `{OURS}`."
                )
        theirs = [e for e in peers if e.method.partition("/")[0] in TORCH_PRUNING]
        if result.steps or ours.before is None or not theirs:
            continue
        best = max(theirs, key=lambda e: e.before or 0.0)
        dense = result.dense.accuracy
        lost, other = dense - ours.before, dense - (best.before or 0.0)
        word = "met" if lost <= other / 2 else "**missed**"
        halved = any(math.isclose(target, goal, rel_tol=1e-6) for goal in HALVED)
        lines.append(
            f"- {share}, after BatchNorm recalibration alone: `{OURS}` loses {100 * lost:.2f} "
            f"points, torch-pruning's best setting here (`{best.method}`) {100 * other:.2f}"
            + (f": the goal, at most half of that, is {word}." if halved else ".")
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
