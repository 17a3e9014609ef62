"""Costs of plans at any widths, and what they rest on."""

from __future__ import annotations

import itertools

import pytest

from edgeprune.cost.prediction import Predictor
from edgeprune.cost.table import build_table, predicted_cost
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import cut


@pytest.mark.parametrize("name", ["plain", "residual", "separable"])
def test_any_widths_of_an_exact_device(
    build, exported, groups_of, simulated, tmp_path, name: str
) -> None:
    """A price is (overhead + tiles in x tiles out / rate): off the stairs as on them."""
    device, path = simulated(step=4), exported(name)
    groups = groups_of(name).groups
    table = build_table(device, read_graph(path), groups, profile_model(device, path, name=name))
    predict = Predictor(table)
    for share in (0.4, 0.55, 0.7, 1.0):
        widths = {g.name: max(1, round(share * g.width)) for g in groups}
        slim = cut(*build(name), {g: range(w) for g, w in widths.items()})
        export(slim, build(name)[1], tmp_path / "slim.onnx", opset=20)
        true = profile_model(device, tmp_path / "slim.onnx", name=name).total
        found = predict(widths)
        assert found.cost == pytest.approx(true, rel=0.01)
        assert found.cost == pytest.approx(sum(found.parts.values()))


def test_offered_widths_cost_what_they_cost_in_the_problem(exported, groups_of, simulated) -> None:
    device, path = simulated(step=4), exported("plain")
    profile = profile_model(device, path, name="plain")
    table = build_table(device, read_graph(path), groups_of("plain").groups, profile)
    predict = Predictor(table)
    for widths in itertools.product(*table.widths.values()):
        plan = dict(zip(table.widths, widths, strict=True))
        found = predict(plan)
        assert found.cost == pytest.approx(predicted_cost(table, plan))
        assert found.parts["interpolated"] == found.parts["estimated"] == 0.0
    odd = predict({"conv1": 7, "conv2": 13})
    assert odd.parts["estimated"] > 0.0
