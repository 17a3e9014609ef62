"""How well whole plans are predicted from prices of layers, on random plans held out.

    python benchmarks/prediction.py price --network fashion --keep FOLDER     # build the cost table
    python benchmarks/prediction.py prepare --network fashion --keep FOLDER   # export the plans
    python benchmarks/prediction.py measure --network fashion --keep FOLDER [--count 25]
    python benchmarks/prediction.py report --network fashion --keep FOLDER

Each part goes on where it stopped; what is kept of another device or network is refused. Half of
the plans take offered widths (aligned), half any width (unaligned). They are measured as a
verdict measures, in interleaved pairs with the dense model, so that a change of the machine's speed
since the table was built cancels: compared are shares of the dense cost. The table is fitted to
whole plans of its own (cost/whole.py); no other corrects the predictions, as those that the
closed loop of a job measures would. `prepare --seed N` draws other plans.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from edgeprune.allocation.spared import layers_gone
from edgeprune.cost.prediction import Predictor
from edgeprune.cost.table import build_table
from edgeprune.cost.whole import Without, fit_to_whole_plans, removals
from edgeprune.devices.opening import open_device
from edgeprune.devices.protocol import Device
from edgeprune.devices.spec import load_spec
from edgeprune.errors import EdgepruneError, UnstableError, UsageError
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.job import load_job
from edgeprune.loading import call_factory, load_model
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.timing import compare
from edgeprune.pruning.blocks import find_blocks
from edgeprune.pruning.channels import width_of
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.records import Comparison, CostTable, Environment
from edgeprune.store import write_text

EXAMPLES = Path(__file__).parents[1] / "examples"
SHAPES = {"mobilenet_v2": (1, 3, 224, 224), "resnet18": (1, 3, 224, 224)}
PLANS = 100
ATTEMPTS = 3  # at a plan: one burst of other programs is not to end hours of work
OPSET = 20
Inputs = tuple[torch.Tensor, ...]
ELSEWHERE = "name another folder: --keep FOLDER"


def network(name: str) -> tuple[torch.nn.Module, Inputs]:
    if name == "fashion":
        job = load_job(EXAMPLES / "fashion_mnist/job.toml")
        return load_model(job, EXAMPLES / "fashion_mnist"), (torch.zeros(1, 1, 28, 28),)
    model = call_factory(f"model:{name}", EXAMPLES / "shapes", "model")
    return model.eval(), (torch.zeros(SHAPES[name]),)


def kept_table(folder: Path, name: str, device_name: str) -> CostTable:
    """Return the cost table in `folder`, which must be of this network and this device.

    Raises:
        UsageError: there is none, or it is of another one.
    """
    path = folder / "table.json"
    if not path.exists():
        raise UsageError(f"{folder} holds no cost table", "build it with the part `price`")
    table = CostTable.model_validate_json(path.read_text())
    layers = dict(network(name)[0].named_modules())
    faults = []
    if table.device != device_name:
        faults.append(f"of device {table.device}, not {device_name}")
    for group, offered in table.widths.items():
        width = width_of(layers[group]) if group in layers else "no"
        if width != offered[-1]:
            faults.append(f"{group} has {offered[-1]} channels there, {width} in {name}")
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        raise UsageError(f"{path} is of another network or device:{listed}", ELSEWHERE)
    return table


def price(name: str, device_name: str, folder: Path) -> None:
    """Build the cost table from nothing, and note how long it took."""
    device = open_device(device_name)
    if (folder / "table.json").exists():
        kept_table(folder, name, device.spec.name)
        return
    model, inputs = network(name)
    path = folder / "dense.onnx"
    export(model, inputs, path, opset=OPSET)
    groups = find_groups(model, inputs).groups
    profile = profile_model(device, path, name=name)
    started = time.monotonic()
    graph = read_graph(path)
    table = build_table(device, graph, groups, profile)
    if not device.spec.exact:
        divisors = {group.name: group.divisor for group in groups}
        build = builder(model, inputs, folder)
        without = []
        for number, blocks in enumerate(removals(find_blocks(model, inputs, groups), table.widths)):
            file = folder / f"without{number}.onnx"
            export(cut(model, inputs, {}, blocks), inputs, file, opset=OPSET)
            without.append(Without(layers_gone(graph, blocks), file))
        table = fit_to_whole_plans(device, table, path, build, divisors, profile, without=without)
    seconds = time.monotonic() - started
    write_text(folder / "seconds.json", json.dumps({"table": seconds, "probes": table.probes}))
    write_text(folder / "table.json", table.model_dump_json())
    print(f"{name}: {table.probes} probes in {seconds:.1f} s")


def builder(model: torch.nn.Module, inputs: Inputs, folder: Path) -> Callable[..., Path]:
    """Return what exports a whole plan."""

    def build(widths: Mapping[str, int], number: int) -> Path:
        kept = {group: range(width) for group, width in widths.items()}
        path = folder / f"whole{number}.onnx"
        export(cut(model, inputs, kept), inputs, path, opset=OPSET)
        return path

    return build


def prepare(name: str, table: CostTable, folder: Path, plans: int, seed: int) -> None:
    """Draw the plans and export them."""
    model, inputs = network(name)
    random = np.random.default_rng(seed)
    for index in range(plans):
        widths = {}
        for group, offered in table.widths.items():
            free = int(random.integers(max(1, offered[-1] // 8), offered[-1] + 1))
            widths[group] = int(random.choice(offered)) if index % 2 == 0 else free
        path = folder / f"plan{index}.onnx"
        if not path.exists():
            kept = {group: range(width) for group, width in widths.items()}
            export(cut(model, inputs, kept), inputs, path, opset=OPSET)
            write_text(folder / f"plan{index}.json", json.dumps(widths))


def measure(device_name: str, table: CostTable, folder: Path, count: int) -> None:
    """Measure the next `count` plans in interleaved pairs with the dense model, as a job does.

    Raises:
        UnstableError: the ratio of a plan did not settle, three times in a row.
        UsageError: the cost table was measured in another environment.
    """
    device = open_device(device_name)
    waiting = [
        p for p in sorted(folder.glob("plan*.onnx")) if not p.with_suffix(".cost.json").exists()
    ][:count]
    for path in waiting:
        found, environment = _compared(device, folder / "dense.onnx", path)
        if differences := table.environment.differences(environment):
            listed = "".join(f"\n  - {line}" for line in differences)
            raise UsageError(f"{folder} was measured in another environment:{listed}", ELSEWHERE)
        kept = {"share": 1 / found.median, "low": 1 / found.high, "high": 1 / found.low}
        write_text(path.with_suffix(".cost.json"), json.dumps(kept))
    print(f"{len(waiting)} plans measured")


def _compared(device: Device, dense: Path, path: Path) -> tuple[Comparison, Environment]:
    def once() -> tuple[Comparison, Environment]:
        return compare(device, dense, path, half_width=0.006, seconds=10.0)

    for _ in range(ATTEMPTS - 1):
        try:
            return once()
        except UnstableError as error:
            print(f"{path.stem} is measured again: {error.what}")
    return once()


def report(table: CostTable, folder: Path) -> dict[str, object]:
    """Compare predictions with measurements; return the figures."""
    predict, errors, shares = Predictor(table), {"aligned": [], "unaligned": []}, []
    for path in sorted(folder.glob("plan*.cost.json")):
        index = int(path.name.removeprefix("plan").removesuffix(".cost.json"))
        found = json.loads(path.read_text())
        widths = json.loads((folder / f"plan{index}.json").read_text())
        predicted = predict(widths).cost / table.dense_cost
        measured = found["share"]
        shares.append(measured)
        errors["aligned" if index % 2 == 0 else "unaligned"].append(predicted / measured - 1)
    rows: dict[str, object] = {"device": table.device, "unit": table.unit, "probes": table.probes}
    rows |= json.loads((folder / "seconds.json").read_text())
    for kind, values in (*errors.items(), ("all", errors["aligned"] + errors["unaligned"])):
        e = np.array(values)
        if len(e):
            rows[kind] = {
                "plans": len(e),
                "rmspe": float(np.sqrt(np.mean(e**2))),
                "bias": float(np.mean(e)),
                "within_5": float(np.mean(np.abs(e) <= 0.05)),
                "within_10": float(np.mean(np.abs(e) <= 0.10)),
                "largest": float(np.max(np.abs(e))),
            }
    rows["share_of_dense"] = [float(min(shares)), float(max(shares))] if shares else []
    write_text(folder / "report.json", json.dumps(rows, indent=1))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=("price", "prepare", "measure", "report"))
    parser.add_argument("--network", default="fashion", choices=("fashion", *SHAPES))
    parser.add_argument("--device", default="mobile_cpu")
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--plans", type=int, default=PLANS)
    parser.add_argument("--seed", type=int, default=0, help="of the widths drawn")
    parser.add_argument("--count", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = load_spec(given.device).name
    folder = given.keep / f"{given.network}-{device}"
    if given.part == "price":
        folder.mkdir(parents=True, exist_ok=True)
        price(given.network, given.device, folder)
        return 0
    table = kept_table(folder, given.network, device)
    if given.part == "prepare":
        prepare(given.network, table, folder, given.plans, given.seed)
    elif given.part == "measure":
        measure(given.device, table, folder, given.count)
    else:
        print(json.dumps(report(table, folder), indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgepruneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
