"""Every importance with every allocation: to a physically smaller, exported, parity-checked model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgeprune.allocation.closed_loop import Measured
from edgeprune.allocation.reaching import reach
from edgeprune.allocation.registry import ALLOCATORS
from edgeprune.allocation.task import Task
from edgeprune.cost.table import build_table
from edgeprune.data import Data
from edgeprune.devices.simulated import SimulatedDevice, segment_cost
from edgeprune.devices.spec import load_spec
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.importance.registry import CRITERIA
from edgeprune.importance.scores import score_channels
from edgeprune.importance.sensitivity import best_curves, sensitivity_curves
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.shrink import shrink
from edgeprune.records import PlannedGroup, Simulation
from edgeprune.recovery.batchnorm import recalibrate

BUDGET = 0.7
SAMPLES = 64
# What `layer_adaptive` leaves of 8 channels each, by the group that suffers most: that one loses
# the least share, 10 % (8 -> 7), and the other as few as bring the cost within the budget, on stairs
# of two channels; where none suffers, both lose the same.
ADAPTED = {"0": {"0": 7, "3": 2}, "3": {"0": 4, "3": 7}, "": {"0": 6, "3": 6}}
SIGNED = ("grasp", "hessian")  # no shares of a sum of signed scores


@dataclass(frozen=True)
class Bench:
    """A small network, priced once on a simulated device, with everything scored once."""

    task: Task
    simulation: Simulation
    scored: Callable[[str], Task]
    proved: set[str] = field(default_factory=set)  # plans whose exported models were checked


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("every")
    simulation = Simulation(step=2, macs_per_us=50.0, overhead_us=1.0)
    spec = load_spec("simulated").model_copy(update={"simulation": simulation})
    device = SimulatedDevice(spec)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3),
        ).eval()  # fmt: skip
        for norm in (model[1], model[4]):  # equal scales are no ranking
            norm.weight.data.uniform_(0.5, 1.5)
        x = torch.randn(SAMPLES, 1, 6, 6)
        y = torch.randint(0, 3, (SAMPLES,))
    batches = [(x[:32], y[:32]), (x[32:], y[32:])]
    data = Data(x[:1], batches, batches, batches)
    recalibrate(model, [(x,)])
    # `bn_scale` needs a BatchNorm in each group; that of the Linear has none and stays whole.
    groups = tuple(g for g in find_groups(model, data.example).groups if g.name in ("0", "3"))
    dense = folder / "dense.onnx"
    export(model, data.example, dense, opset=20)
    profile = profile_model(device, dense, name="tiny", layers=dense)
    table = build_table(device, read_graph(dense), groups, profile)

    @cache
    def scored(criterion: str) -> Task:
        names = ("taylor", "l2") if criterion == "auto" else (criterion,)
        scores = {
            name: score_channels(model, data, groups, name, samples=SAMPLES) for name in names
        }
        curves = sensitivity_curves(model, data, table.widths, scores, samples=SAMPLES)
        return Task(
            model, data, groups, table, best_curves(curves), scores,
            criterion=None if criterion == "auto" else criterion,
        )  # fmt: skip

    task = scored("auto")
    return Bench(task, simulation, scored)


QUICK = {("auto", a) for a in ALLOCATORS} | {(c, "hardware_penalty") for c in CRITERIA}


@pytest.mark.parametrize(
    ("importance", "allocation"),
    [
        pytest.param(i, a, marks=() if (i, a) in QUICK else (pytest.mark.slow,))
        for i in ("auto", *CRITERIA)
        for a in ALLOCATORS
    ],
)
def test_importance_and_allocation(
    bench: Bench, request: pytest.FixtureRequest, tmp_path: Path, importance: str, allocation: str
) -> None:
    if allocation == "retention" and importance in SIGNED:
        pytest.skip("retention has no meaning for signed scores, and says so: tests/importance")
    task = bench.scored(importance)
    dense = task.table.dense_cost

    def priced(groups: dict[str, PlannedGroup]) -> Measured:
        """The cost by the table, which spares an export a round."""
        cost = task.cost({name: group.after for name, group in groups.items()})
        return Measured(cost, cost, cost)

    plan = reach(allocation, task, BUDGET * dense, measure=priced)
    if ALLOCATORS[allocation].steerable:
        assert plan.corrected <= BUDGET * dense
    if allocation == "layer_adaptive":
        widths = {name: group.after for name, group in plan.groups.items()}
        assert widths == ADAPTED[most_sensitive(task)]
    slim = shrink(task.model, task.data.example, plan, [(task.data.calibration[0][0],)])
    before, after = (sum(p.numel() for p in m.parameters()) for m in (task.model, slim))
    assert after < before or allocation == "retention"
    if plan.digest in bench.proved:  # another method found the same channels: the same model
        return
    file = tmp_path / "slim.onnx"
    export(slim, task.data.example, file, opset=20)
    x = task.data.calibration[0][0]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = np.concatenate(
        [session.run(None, {session.get_inputs()[0].name: row[None].numpy()})[0] for row in x]
    )
    with torch.inference_mode():
        wanted = slim(x).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())
    graph = read_graph(file)
    cost = sum(segment_cost(s, bench.simulation) for s in graph.segments)
    if ALLOCATORS[allocation].steerable:  # prices between the stairs are interpolated
        assert cost < 0.9 * dense
    bench.proved.add(plan.digest)


def most_sensitive(task: Task) -> str:
    """The group whose curve has the largest mean, "" where no width of any loses anything."""
    losses = {
        name: sum(max(0.0, x) for x in curve.increases) for name, curve in task.curves.items()
    }
    return max(losses, key=lambda name: losses[name]) if any(losses.values()) else ""
