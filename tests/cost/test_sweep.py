"""Few probes, and still the stairs of every layer."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeprune.cost import table as module
from edgeprune.cost.curves import Design
from edgeprune.cost.prediction import Predictor
from edgeprune.cost.probes import Probes
from edgeprune.cost.sweep import CARE
from edgeprune.cost.table import anchors, build_table
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import find_groups
from edgeprune.records import CostTable


@pytest.fixture
def deep(tmp_path, simulated):
    """Simulation fields, design -> the table of a chain of nine wide convolutions."""
    torch.manual_seed(0)
    widths = [3, 64, 64, 128, 128, 128, 128, 192, 192, 192]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10)).eval()
    inputs = (torch.randn(1, 3, 8, 8),)
    export(model, inputs, tmp_path / "deep.onnx", opset=20)
    groups = find_groups(model, inputs).groups

    def table(design: Design, monkeypatch, **fields: float) -> CostTable:
        monkeypatch.setattr(module, "MEASURED", design)
        device, path = simulated(**fields), tmp_path / "deep.onnx"
        profile = profile_model(device, path, name="deep")
        return build_table(device, read_graph(path), groups, profile, processes=1)

    return table


FEW = Design(window=33, tile=0.005, bend=0.02, pairs=0)
ALL = Design(window=33, tile=0.005, bend=0.02, pairs=10**6)


@pytest.mark.parametrize("step", [1, 8, 16])
def test_few_probes_price_what_all_pairs_would(deep, monkeypatch, step: int) -> None:
    few, every = (deep(design, monkeypatch, step=step) for design in (FEW, ALL))
    assert few.widths == every.widths
    assert few.probes < 0.85 * every.probes
    costs = {(p.layer, p.width_in, p.width_out): p.cost for p in every.prices}
    assert len(costs) == len(few.prices)
    for price in few.prices:
        wanted = costs[price.layer, price.width_in, price.width_out]
        assert price.cost == pytest.approx(wanted, rel=1e-6)
    assert {price.basis for price in every.prices} == {"measured"}


def test_prices_say_what_they_rest_on(deep, monkeypatch) -> None:
    table = deep(FEW, monkeypatch, step=16)
    dense = {layer.name: layer for layer in table.layers}
    for price in table.prices:
        layer = dense[price.layer]
        if not layer.sides or layer.sides == ("both",):
            continue
        if price.width_in == layer.width_in or price.width_out == layer.width_out:
            assert price.basis == "measured"  # the lines with one side dense
        elif len(layer.sides) == 2:
            ends = table.widths[layer.group_in], table.widths[layer.group_out]
            pair = price.width_in, price.width_out
            known = all(w in anchors(offered) for w, offered in zip(pair, ends, strict=True))
            assert price.basis == ("measured" if known else "estimated")


@pytest.mark.parametrize("cliff", [1.0, 1.6])
def test_every_width_follows_the_stairs(deep, monkeypatch, simulated, cliff: float) -> None:
    """Off the full tiles as well, where a cliff makes a narrower layer dearer than a wider one."""
    table = deep(FEW, monkeypatch, step=16, cliff=cliff)
    predict = Predictor(table)
    for group, offered in table.widths.items():
        assert all(width % 16 == 0 for width in offered)
        top, below = predict({group: 64}).cost, predict({group: 63}).cost
        if offered[-1] > 64:
            assert below > 1.005 * top if cliff > 1.0 else below == pytest.approx(top, rel=1e-3)
            assert predict({group: 49}).cost == pytest.approx(below, rel=1e-3)


def test_where_plans_are_few_parts_of_a_tile_are_looked_at(tmp_path, simulated) -> None:
    """Three full tiles each make 9 plans, too few for any budget; what saves nothing stays out."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise([3, 48, 48]):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)).eval()
    inputs, path = (torch.randn(1, 3, 8, 8),), tmp_path / "small.onnx"
    export(model, inputs, path, opset=20)
    groups = find_groups(model, inputs).groups
    fine = simulated(step=4)
    profile = profile_model(fine, path, name="small")
    table = build_table(fine, read_graph(path), groups, profile, processes=1)
    assert all(widths == tuple(range(4, 49, 4)) for widths in table.widths.values())
    flat = simulated(step=16)  # a narrower width costs as much as a full tile
    profile = profile_model(flat, path, name="small")
    table = build_table(flat, read_graph(path), groups, profile, processes=1)
    assert all(widths == (16, 32, 48) for widths in table.widths.values())
    assert {8} <= {price.width_out for price in table.swept if price.layer == "0"}


def test_a_long_sweep_is_not_needed(deep, monkeypatch) -> None:
    """34 lines of up to 192 channels: 32 points on each would be over a thousand probes."""
    table = deep(FEW, monkeypatch, step=8)
    operator = {layer.name: layer.operator for layer in table.layers}
    assert len(table.swept) < 400
    assert all(stair.stair.period == 8 for stair in table.stairs if operator[stair.layer] == "Conv")


def test_a_burst_of_noise_hides_no_stairs(deep, monkeypatch) -> None:
    """A sweep that no tile explains is taken again, and the lower of the costs counts."""
    ask, processes = Probes._ask, set()

    def quiet(self, keys, files, rounds, inner, process):
        """Another kernel runs widths in that are no multiple of 4."""
        processes.add(process)
        return {
            key: cost.model_copy(update={"operators": (str(channels_in(files[key]) % 4 == 0),)})
            if key in files
            else cost
            for key, cost in ask(self, keys, files, rounds, inner, process).items()
        }

    def loud(self, keys, files, rounds, inner, process):
        """Of the quick sweeps, every third process has a quiet machine; no reference tells."""
        burst = rounds == 10 and process % 3 < 2
        random = np.random.default_rng([process, len(keys)])
        return {
            key: cost.model_copy(update={"cost": cost.cost * (1 + burst * random.random())})
            if key in files
            else cost
            for key, cost in quiet(self, keys, files, rounds, inner, process).items()
        }

    monkeypatch.setattr(Probes, "_ask", quiet)
    wanted = deep(FEW, monkeypatch, step=16)
    assert processes == {0}
    assert {stair.period for branch in wanted.branches for stair in branch.stairs} == {1, 16}
    monkeypatch.setattr(Probes, "_ask", loud)
    found = deep(FEW, monkeypatch, step=16)
    assert processes == set(range(CARE))
    periods = [[s.period for b in table.branches for s in b.stairs] for table in (wanted, found)]
    assert periods[0] == periods[1]
    periods = [[s.stair.period for s in table.stairs] for table in (wanted, found)]
    assert periods[0] == periods[1]


def channels_in(path: Path) -> int:
    """Return the number of channels that a model reads."""
    (source,) = [i for i in onnx.load(path).graph.input]
    return source.type.tensor_type.shape.dim[1].dim_value
