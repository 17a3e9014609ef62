"""Compare ways to make the dense network sparse, and write the table into README.md.

    .venv/bin/python examples/regression/compare.py              (half a minute on one core)
    .venv/bin/python examples/regression/compare.py --device mobile_cpu

Without --device the column of costs stays as it was measured last (costs.json). Score and points
of a network with sparsity s (share of zero weights and biases) and mean squared error e:

    score  = (1 - min(e, 1000) / 1000)^1.5 * s^1.5            (0 from e = 1000 on)
    points = 1.5 * (clip(score, 0.085, 0.95) - 0.085) / 0.865
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from data import load, loss
from model import HIDDEN, INPUTS, OUTPUTS, build
from train import mse

from edgeprune import Data
from edgeprune.data import first_batches
from edgeprune.devices.opening import open_device
from edgeprune.export.onnx_graph import export
from edgeprune.loading import load_weights
from edgeprune.profiler.timing import compare
from edgeprune.report.markdown import put_between, table
from edgeprune.transforms import masks
from edgeprune.transforms.collapse import bridge, collapse, find_chains, fit

FOLDER = Path(__file__).parent
COSTS = FOLDER / "costs.json"
EPS, STEPS = (0.01, 0.1, 1.0), (0, 100, 300)
RIDGE, SAMPLES, RATE = 1e-3, 2000, 1e-3


@dataclass(frozen=True)
class Row:
    """One network: how it was made, how long it was trained, its sparsity and its error."""

    method: str
    eps: float | None
    steps: int
    sparsity: float
    error: float


def score(sparsity: float, error: float) -> float:
    """Return the score of a network; both factors count with the power 1.5."""
    return float((1 - min(error, 1000.0) / 1000) ** 1.5 * sparsity**1.5)


def points(value: float) -> float:
    """Return the points for a score: 0 at 0.085 and below, 1.5 at 0.95 and above."""
    return 1.5 * (min(max(value, 0.085), 0.95) - 0.085) / 0.865


def sparsity(model: nn.Module) -> float:
    """Return the share of zeros among the dense network's parameters; what is gone is zero."""
    dense = HIDDEN * (INPUTS + 1) + OUTPUTS * (HIDDEN + 1)
    return 1 - sum(int((p != 0).sum()) for p in model.parameters()) / dense


def trained(model: nn.Module, data: Data, steps: int, seed: int) -> nn.Module:
    """Return a copy after `steps` steps of Adam on the mean squared error; zeros stay zero."""
    model = copy.deepcopy(model)
    if not steps:
        return model.eval()
    names = tuple(name for name, p in model.named_parameters() if bool((p == 0).any()))
    masks.hold_zeros(model, names)
    torch.manual_seed(seed)
    batches = list(data.train or ())
    optimizer = torch.optim.Adam(model.train().parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for step in range(steps):
        inputs, target = batches[step % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        loss(model(inputs), target).backward()
        optimizer.step()
        schedule.step()
    return masks.release(model).eval()


def networks(
    dense: nn.Module, data: Data, seed: int
) -> Iterator[tuple[str, float | None, nn.Module]]:
    """Yield (method, eps, network before training), all of them as sparse as the collapsed one."""
    taken = first_batches(data.calibration, SAMPLES, "calibration")
    calibration = [inputs for inputs, _ in taken]
    (chain,) = find_chains(dense)
    layer = fit(dense, chain, calibration, RIDGE)
    yield "physical collapse", None, collapse(dense, chain, layer)
    for eps in EPS:
        first, last = bridge(layer.weight.detach(), layer.bias.detach(), HIDDEN, eps)
        yield "masked bridge", eps, nn.Sequential(first, nn.Sigmoid(), last).eval()
    amount = 1 - (INPUTS + OUTPUTS * INPUTS) / (HIDDEN * (INPUTS + OUTPUTS))
    for name, kind in (("magnitude", "global"), ("random", "random")):
        masked = copy.deepcopy(dense)
        masks.put_on(masked, kind, amount, seed=seed)
        yield name, None, masks.permanent(masked)


def measure(dense: nn.Module, data: Data, device: str, seed: int) -> dict[str, str]:
    """Return method -> the cost of the dense network over its own, with its interval."""
    opened = open_device(device)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch, "dense.onnx"), Path(scratch, "other.onnx")
        export(dense, data.example, first, opset=20)
        for method, eps, model in networks(dense, data, seed):
            if eps in (None, EPS[1]):
                export(model, data.example, second, opset=20)
                ratio, _ = compare(opened, first, second, half_width=0.01, seconds=15, seed=seed)
                found[method] = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
                print(f"{method}: {found[method]}", flush=True)
    return {"device": device, **found}


def rows(dense: nn.Module, data: Data, seed: int) -> Iterator[Row]:
    """Yield a row for every network and number of steps."""
    yield Row("dense", None, 0, sparsity(dense), mse(dense, data))
    for method, eps, model in networks(dense, data, seed):
        for steps in STEPS:
            slim = trained(model, data, steps, seed)
            yield Row(method, eps, steps, sparsity(slim), mse(slim, data))


def as_table(found: list[Row], costs: dict[str, str]) -> str:
    """Return the table in Markdown."""
    heads = ["method", "eps", "steps", "zeros", "test MSE", "score", "points", "dense cost / cost"]
    lines = []
    for row in found:
        value = score(row.sparsity, row.error)
        cost = "1" if row.method == "dense" else costs.get(row.method, "not measured")
        cells = [
            row.method,
            "" if row.eps is None else f"{row.eps:g}",
            f"{row.steps}",
            f"{100 * row.sparsity:.2f} %",
            f"{row.error:.1f}",
            f"{value:.3f}",
            f"{points(value):.3f}",
            cost,
        ]
        lines.append(cells)
    return table(heads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="measure costs there first, and keep them in costs.json")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dense, data = build(), load()
    load_weights(dense, FOLDER / "dense.safetensors")
    if arguments.device:
        costs = measure(dense, data, arguments.device, arguments.seed)
        COSTS.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")
    costs = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.is_file() else {}
    found = []
    for row in rows(dense, data, arguments.seed):
        print(row, flush=True)
        found.append(row)
    page = FOLDER / "README.md"
    text = put_between(page.read_text(encoding="utf-8"), "results", as_table(found, costs))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
