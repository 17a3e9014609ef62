from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.cost.prediction import Predictor
from edgeprune.cost.table import PriceList, build_table, predicted_cost
from edgeprune.devices.simulated import SimulatedDevice, segment_cost
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import ANCHORS, read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.shrink import shrink

EXACT = ["residual", "separable", "mlp", "decoder", "sigmoid"]
# Here a Reshape, Slice or Squeeze stands between layers, whose price stays that of the dense model.
FIXED = ["plain", "flattened", "conv1d", "tokens"]


@pytest.fixture(scope="module")
def tables(exported, groups_of):
    """(device, model) -> its cost table; exact devices give the same table every time."""
    made: dict[tuple[str, str], object] = {}

    def of(device, name: str):
        key = name, str(device.spec.simulation)
        if key not in made:
            path = exported(name)
            profile = profile_model(device, path, name=name, processes=1, rounds=2)
            made[key] = build_table(
                device, read_graph(path), groups_of(name).groups, profile, processes=1
            )
        return made[key]

    return of


def whole_cost(device, path: Path) -> float:
    return sum(segment_cost(s, device.spec.simulation) for s in read_graph(path).segments)


def test_rounds_of_progress_are_told_apart(simulated, exported, groups_of) -> None:
    device, path, told = simulated(), exported("mlp"), dict[str, list[tuple[int, int]]]()
    profile = profile_model(device, path, name="mlp", processes=1, rounds=2)

    def report(what: str, done: int, total: int) -> None:
        told.setdefault(what, []).append((done, total))

    groups = groups_of("mlp").groups
    build_table(device, read_graph(path), groups, profile, processes=1, report=report)
    assert list(told) == ["stairs", "stairs, round 2", "stairs, round 3", "prices"]
    for counts in told.values():  # from nothing to all, without a step back
        total = counts[0][1]
        assert counts == [(done, total) for done in range(total + 1)]


@pytest.mark.parametrize("name", EXACT + FIXED)
def test_the_dense_model_is_predicted_exactly(
    simulated, tables, exported, groups_of, name: str
) -> None:
    device = simulated()
    table = tables(device, name)
    dense = {group.name: group.width for group in groups_of(name).groups}
    wanted = whole_cost(device, exported(name))
    assert table.dense_cost == pytest.approx(wanted, rel=1e-9)
    assert table.scale == pytest.approx(1.0, rel=1e-9)
    assert predicted_cost(table, dense) == pytest.approx(wanted, rel=1e-9)
    assert predicted_cost(table, {}) == pytest.approx(wanted, rel=1e-9)


def test_counts_between_layers_go_with_the_layers_and_not_with_their_widths(
    simulated, exported, groups_of
) -> None:
    """A count of the whole model beyond its layers is theirs alike, and a time of it in proportion."""
    timed, path, groups = simulated(), exported("residual"), groups_of("residual").groups
    device = SimulatedDevice(timed.spec.model_copy(update={"figure": "emulated"}))
    assert device.spec.exact
    profile = profile_model(device, path, name="residual", processes=1, rounds=2)
    graph = read_graph(path)
    plain = build_table(device, graph, groups, profile, processes=1)
    more = profile.model_copy(update={"total": profile.total + 100.0})
    table = build_table(device, graph, groups, more, processes=1)
    assert table.scale == 1.0
    assert table.beside == pytest.approx(100.0 / len(table.layers))
    narrow = {name: widths[0] for name, widths in table.widths.items()}
    for widths in ({}, narrow):
        found = predicted_cost(table, widths)
        assert found == pytest.approx(predicted_cost(plain, widths) + 100.0)
        assert Predictor(table)(widths).cost == pytest.approx(found)
    less = profile.model_copy(update={"total": 0.9 * profile.total})
    table = build_table(device, graph, groups, less, processes=1)
    assert (table.scale, table.beside) == (pytest.approx(0.9), 0.0)
    table = build_table(timed, graph, groups, more, processes=1)
    assert (table.scale, table.beside) == (pytest.approx(more.total / profile.total), 0.0)


@pytest.mark.parametrize("name", EXACT + FIXED)
def test_plans_are_predicted_exactly(
    simulated, tables, build, groups_of, make_plan, tmp_path: Path, name: str
) -> None:
    """From prices of single layers to the cost of the shrunk, exported model: every mapping counts."""
    device = simulated(overhead_us=0.0, macs_per_us=1000.0)  # small layers stand out, too
    table = tables(device, name)
    model, inputs = build(name)
    chosen = {g: w[min(i % 2, len(w) - 1)] for i, (g, w) in enumerate(table.widths.items())}
    chosen[next(iter(chosen))] = table.widths[next(iter(chosen))][0]
    assert any(chosen[g.name] < g.width for g in groups_of(name).groups)
    slim = shrink(model, inputs, make_plan(groups_of(name), chosen))
    export(slim, inputs, tmp_path / "slim.onnx", opset=20)
    costs = {
        s.name: segment_cost(s, device.spec.simulation)
        for s in read_graph(tmp_path / "slim.onnx").segments
    }
    fixed = [layer for layer in table.layers if layer.group_in is None and layer.group_out is None]
    assert not any(layer.operator in ANCHORS for layer in fixed)
    assert bool(fixed) == (name in FIXED)
    price = PriceList.of(table)
    stays = sum(price(layer.name, layer.width_in, layer.width_out) for layer in fixed)
    wanted = sum(costs.values()) - sum(costs[layer.name] for layer in fixed)
    assert predicted_cost(table, chosen) / table.scale - stays == pytest.approx(wanted, rel=1e-9)
    assert predicted_cost(table, chosen) == pytest.approx(
        sum(costs.values()), rel=0.01 if fixed else 1e-9
    )
    assert sum(costs.values()) < 0.99 * table.dense_cost


@pytest.mark.parametrize("cliff", [1.0, 1.3])
@pytest.mark.parametrize("step", [8, 12, 16])
def test_the_stairs_found_are_those_of_the_device(
    simulated, tables, groups_of, step: int, cliff: float
) -> None:
    # Layers are small here: without overhead and with slow arithmetic every stair stands out.
    table = tables(
        simulated(step=step, cliff=cliff, overhead_us=0.0, macs_per_us=100.0), "residual"
    )
    for group in groups_of("residual").groups:
        assert table.widths[group.name] == tuple(
            sorted({*range(step, group.width + 1, step), group.width})
        )


@pytest.mark.parametrize(
    ("width", "step"), [(96, 8), (96, 16), (72, 8), (72, 12), (120, 8), (128, 16)]
)
def test_stairs_of_wide_layers(simulated, tmp_path: Path, width: int, step: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.ReLU(),
        nn.Conv2d(width, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    inputs = (torch.randn(1, 3, 6, 6),)
    groups = [g for g in find_groups(model.eval(), inputs).groups if g.name == "0"]
    path = tmp_path / "m.onnx"
    export(model, inputs, path, opset=20)
    device = simulated(step=step, overhead_us=0.0, macs_per_us=100.0)
    profile = profile_model(device, path, name="m", processes=1, rounds=2)
    table = build_table(device, read_graph(path), groups, profile, processes=1)
    assert table.widths["0"] == tuple(range(step, width + 1, step))


@pytest.mark.parametrize("name", EXACT + FIXED)
def test_every_combination_of_offered_widths_has_a_price(simulated, tables, name: str) -> None:
    table = tables(simulated(), name)
    for chosen in itertools.product(*table.widths.values()):
        assert predicted_cost(table, dict(zip(table.widths, chosen, strict=True))) > 0
    assert all(price.cost > 0 for price in table.prices)
    assert len({(p.layer, p.width_in, p.width_out) for p in table.prices}) == len(table.prices)


def test_narrower_never_costs_more(simulated, tables) -> None:
    table = tables(simulated(), "residual")
    for group, widths in table.widths.items():
        costs = [predicted_cost(table, {group: width}) for width in widths]
        assert costs == sorted(costs)
        assert costs[0] < costs[-1]


def test_layers_know_the_groups_that_feed_them(simulated, tables) -> None:
    layers = {layer.name: layer for layer in tables(simulated(), "residual").layers}
    assert {name: (layers[name].group_in, layers[name].group_out) for name in layers} == {
        "stem": (None, "stem"), "a1": ("stem", "a1"), "a2": ("a1", "stem"), "b1": ("stem", "b1"),
        "b2": ("b1", "project"), "project": ("stem", "project"), "ReduceMean": ("project", "project"),
        "head": ("project", None),
    }  # fmt: skip
    separable = {layer.name: layer for layer in tables(simulated(), "separable").layers}
    assert (separable["deep"].group_in, separable["deep"].group_out) == ("deep", "deep")
    flattened = {layer.name: layer for layer in tables(simulated(), "flattened").layers}
    assert (flattened["4"].group_in, flattened["4"].width_in) == ("0", 16)


def test_the_table_says_where_its_figures_come_from(simulated, tables) -> None:
    table = tables(simulated(), "plain")
    assert (table.device, table.kind, table.unit) == ("simulated", "estimated", "us")
    assert {price.origin for price in table.prices} == {"estimated"}
    assert table.probes > 0
    assert table.environment.facts["device"] == "simulated"


def test_a_width_without_a_price_is_loud(simulated, tables) -> None:
    table = tables(simulated(), "plain")
    with pytest.raises(UnsupportedModelError, match=r"layer conv\d has no price at widths"):
        predicted_cost(table, {"conv1": 3})
    with pytest.raises(UnsupportedModelError, match="layer nowhere has no price"):
        PriceList.of(table)("nowhere", 1, 1)


@pytest.mark.parametrize("name", ["concat", "grouped", "shuffled"])
def test_layers_whose_shapes_are_not_understood_are_fixed(
    simulated, build, exported, name: str
) -> None:
    """Groups that feed them are left alone, which is said."""
    model, inputs = build(name)
    device, graph = simulated(), read_graph(exported(name))
    profile = profile_model(device, exported(name), name=name, processes=1, rounds=2)
    groups = find_groups(model, inputs, ()).groups
    said: list[str] = []
    table = build_table(device, graph, groups, profile, processes=1, warn=said.append)
    frozen = {group.name for group in groups} - set(table.widths)
    assert bool(frozen) == bool(said)
    assert all(any(group in message for message in said) for group in frozen)
    assert predicted_cost(table, {}) == pytest.approx(whole_cost(device, exported(name)), rel=1e-9)


def test_without_groups_every_layer_is_fixed(simulated, exported) -> None:
    device, path = simulated(), exported("plain")
    profile = profile_model(device, path, name="plain", processes=1, rounds=2)
    table = build_table(device, read_graph(path), (), profile, processes=1)
    assert table.widths == {}
    assert predicted_cost(table, {}) == pytest.approx(whole_cost(device, path), rel=1e-9)


def test_noise_changes_prices_by_little(simulated, exported, groups_of, tables) -> None:
    device, path = simulated(noise=0.05), exported("plain")
    profile = profile_model(device, path, name="plain", processes=2, rounds=20)
    noisy = build_table(device, read_graph(path), groups_of("plain").groups, profile)
    exact = PriceList.of(tables(simulated(), "plain"))
    common = [p for p in noisy.prices if (p.layer, p.width_in, p.width_out) in exact.prices]
    assert len(common) >= 5
    for price in common:
        assert price.cost == pytest.approx(
            exact(price.layer, price.width_in, price.width_out), rel=0.15
        )


def test_a_table_of_this_machine(local, exported, groups_of) -> None:
    path = exported("mlp")
    profile = profile_model(local, path, name="mlp", processes=1, rounds=10)
    table = build_table(local, read_graph(path), groups_of("mlp").groups, profile, processes=1)
    assert table.kind == "measured"
    assert {layer.name for layer in table.layers if layer.operator in ANCHORS} == {"0", "2", "4"}
    dense = {group.name: group.width for group in groups_of("mlp").groups}
    assert predicted_cost(table, dense) == pytest.approx(profile.total)
    assert all(price.cost > 0 for price in table.prices)
