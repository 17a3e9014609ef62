"""Cut the policy by L1 and L2 at three shares, play, and write the table into README.md.

    .venv/bin/pip install -c constraints.txt -e '.[examples,microcontroller]'
    .venv/bin/python examples/cartpole/compare.py              (three minutes on one core)

Each hidden layer loses the same share of its units. Returns are those of 100 greedy episodes, as
cut and after recovery by distillation on states; costs are exact instructions of the firmware.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from data import load
from model import policy
from play import returns, version

from edgeprune import Data
from edgeprune.devices.opening import open_device
from edgeprune.export.onnx_graph import export
from edgeprune.importance.scores import keep_best, score_channels
from edgeprune.job import load_job
from edgeprune.profiler.timing import compare
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.shrink import shrink
from edgeprune.records import PlannedGroup, WidthPlan
from edgeprune.recovery.finetuning import metric_on, recover
from edgeprune.report.markdown import put_between, table

FOLDER = Path(__file__).parent
CRITERIA, SHARES = ("l1", "l2"), (0.10, 0.25, 0.50)
EPISODES, SEED = 100, 1000  # training and recovery see other seeds


@dataclass(frozen=True)
class Row:
    """One policy; the cost is in instructions, and `ratio` dense cost over its own."""

    method: str
    widths: tuple[int, ...]
    before: float
    after: float
    agreement: float
    cost: float | None
    ratio: float | None


def cut(model: nn.Module, data: Data, criterion: str, share: float) -> nn.Module:
    """Return the policy without `share` of the units of each hidden layer, proved."""
    found = find_groups(model, data.example).groups
    scores = score_channels(model, data, found, criterion, samples=512)
    groups = {}
    for group in found:
        width = group.width - round(share * group.width)
        groups[group.name] = PlannedGroup(
            before=group.width,
            after=width,
            kept=keep_best(scores[group.name], width),
            criterion=criterion,
        )
    plan = WidthPlan(
        groups=groups, budget=0.0, unit="instructions", predicted=0.0, predicted_error=0.0,
        corrected=0.0, gap=None, loss=0.0, allocation="uniform",
    )  # fmt: skip
    return shrink(model, data.example, plan)


def rows(
    device_name: str | None,
    shares: Sequence[float] = SHARES,
    episodes: int = EPISODES,
    steps: int | None = None,
) -> list[Row]:
    """Return the dense policy and every cut one."""
    device = open_device(device_name) if device_name else None
    data, dense = load(), policy()
    settings = load_job(FOLDER / "job.toml").recover
    if steps is not None:
        settings = settings.model_copy(update={"steps": steps})
    held_out = [((x,), y) for x, y in data.test or ()]
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch, "dense.onnx"), Path(scratch, "slim.onnx")
        export(dense, data.example, first, opset=20)
        mean = float(returns(dense, episodes, SEED).mean())
        for criterion in CRITERIA:
            for share in shares:
                slim = cut(dense, data, criterion, share)
                before = float(returns(slim, episodes, SEED).mean())
                recovered = recover(slim, dense, data, settings, seed=0).model
                export(recovered, data.example, second, opset=20)
                ratio = compare(device, first, second, seconds=10)[0] if device else None
                if not found:
                    cost = ratio.first_cost if ratio else None
                    found.append(Row("dense", _widths(dense), mean, mean, 1.0, cost, 1.0))
                row = Row(
                    f"{criterion}, {100 * share:.0f} %",
                    _widths(recovered),
                    before,
                    float(returns(recovered, episodes, SEED).mean()),
                    metric_on(recovered, data, held_out),
                    ratio.second_cost if ratio else None,
                    ratio.median if ratio else None,
                )
                print(row, flush=True)
                found.append(row)
    return found


def _widths(model: nn.Module) -> tuple[int, ...]:
    return tuple(m.out_features for m in model.modules() if isinstance(m, nn.Linear))[:-1]


def as_table(found: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    heads = [
        "removed", "widths", "return as cut", "return recovered", "of dense", "agreement",
        "instructions", "speed-up",
    ]  # fmt: skip
    dense = found[0].after
    lines = [
        [
            row.method,
            " x ".join(map(str, row.widths)),
            f"{row.before:.1f}",
            f"{row.after:.1f}",
            f"{100 * row.after / dense:.1f} %",
            f"{row.agreement:.4f}",
            "not counted" if row.cost is None else f"{row.cost:,.0f}",
            "not counted" if row.ratio is None else f"{row.ratio:.2f}",
        ]
        for row in found
    ]
    return table(heads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cortex_m4", help='"" counts no instructions')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = rows(arguments.device)
    device = f"device `{arguments.device}`" if arguments.device else "no device"
    note = f"\ngymnasium {version()}, {device}, seed {SEED}.\n"
    page = FOLDER / "README.md"
    text = put_between(page.read_text(encoding="utf-8"), "results", as_table(found) + note)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
