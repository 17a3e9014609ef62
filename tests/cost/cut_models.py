"""What a problem says of plans, against the models that are really cut so."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor, nn

from edgeprune.allocation.problem import Problem
from edgeprune.cost.table import predicted_cost
from edgeprune.devices.simulated import SimulatedDevice, segment_cost
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import Graph, read_graph
from edgeprune.pruning.groups import cut
from edgeprune.records import CostTable


def rows_hold(
    problem: Problem,
    table: CostTable,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    device: SimulatedDevice,
    folder: Path,
    *,
    error: float,
) -> Iterator[tuple[tuple[int, ...], Graph]]:
    """Check MACs, parameters, file and cost (to `error`) of every narrowest and dense choice.

    Yields each choice with the graph of its model.
    """
    path = folder / "slim.onnx"
    for choice in itertools.product((0, -1), repeat=len(table.widths)):
        widths = problem.widths_of(choice)
        slim = cut(model, inputs, {group: range(w) for group, w in widths.items()})
        export(slim, inputs, path, opset=20)
        true, used = read_graph(path), problem.used(choice)
        assert used["macs"] == true.macs
        assert used["parameters"] == sum(p.numel() for p in slim.parameters())
        assert used["flash"] == pytest.approx(path.stat().st_size, abs=100)
        cost = sum(segment_cost(s, device.spec.simulation) for s in true.segments)
        assert predicted_cost(table, widths) == pytest.approx(cost, rel=error)
        yield choice, true
