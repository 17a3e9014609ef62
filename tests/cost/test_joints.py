"""Changes of layout between layers, and the sums that these part from their layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeprune.cost.joints import JointCosts, find_sums
from edgeprune.cost.layers import priceable
from edgeprune.cost.probes import Probes
from edgeprune.export.segments import read_graph
from edgeprune.records import (
    Border,
    CostTable,
    Environment,
    Joint,
    Kernels,
    LayerStair,
    PricedLayer,
    Stair,
    Sum,
)

STRAIGHT = Stair(period=1, shares=(0.0,))
ENDS, NONE = ((4, 1.0), (32, 8.0)), ((1, 0.0), (31, 0.0))


def at(width: int) -> float:
    return float(np.interp(width, [4, 32], [1.0, 8.0]))


def chain(groups: Sequence[str | None], joints: Sequence[Joint], sums: Sequence[Sum]) -> JointCosts:
    """Layers 0, 1, ... between `groups`; each takes the blocked layout where 4 divides its input."""
    names = [str(i) for i in range(len(groups) - 1)]
    layers = [
        PricedLayer(name=name, operator="Conv", group_in=groups[i], group_out=groups[i + 1],
                    width_in=32, width_out=32)
        for i, name in enumerate(names)
    ]  # fmt: skip
    return JointCosts(
        CostTable(
            device="d", kind="measured", unit="us", dense_cost=1.0, layers=tuple(layers),
            widths={}, prices=(), probes=0, environment=Environment(facts={}, comparable=()),
            stairs=tuple(
                LayerStair(layer=n, side="in", stair=STRAIGHT, kernels=Kernels(multiple=4))
                for n, group in zip(names, groups, strict=False) if group
            ),
            borders=tuple(
                Border(layer=n, kernels=(k, 0),
                       before=NONE if k else ENDS, after=NONE if k else ENDS)
                for n in names for k in (0, 1)
            ),
            joints=tuple(joints), sums=tuple(sums),
        )
    )  # fmt: skip


def test_layouts_are_changed_where_kernels_disagree() -> None:
    costs = chain(
        (None, "a", "b", "c"),
        (Joint(writer="0", readers=(("1", False),)), Joint(writer="1", readers=(("2", False),))),
        (),
    )
    assert costs({}) == 0.0
    assert costs({"a": 16, "b": 4}) == 0.0
    assert costs({"a": 31}) == pytest.approx(at(31) + 8.0)
    assert costs({"b": 4, "a": 31}) == pytest.approx(at(31) + 1.0)
    assert costs({"a": 31, "b": 31}) == pytest.approx(at(31))


def test_a_sum_is_fused_where_both_its_operands_are_in_the_other_layout() -> None:
    """0 -> 1 -> 2 -> 3, and what 0 writes is added to what 2 writes."""
    costs = chain(
        ("z", "a", "b", "a", "c"),
        (
            Joint(writer="0", readers=(("1", False), ("2", True))),
            Joint(writer="1", readers=(("2", False),)),
            Joint(writer="2", readers=(("3", False),)),
        ),
        (Sum(layer="2", costs=((4, 2.0), (32, 16.0))),),
    )
    assert costs({}) == costs({"a": 16, "b": 8}) == 0.0
    # 1 and 3 take the file's layout: what 0, with its sum 2, write is changed, and what 2 reads
    assert costs({"a": 31}) == pytest.approx(at(31) + 8.0 + at(31))
    # 2 takes it: the sum runs in it, on what 0 and 1 write, and 3 changes back
    assert costs({"b": 31}) == pytest.approx(8.0 + at(31) + 16.0 + 8.0)
    # 0 takes it: 1 changes what it reads, the sum runs by itself on what 2 writes
    assert costs({"z": 31}) == pytest.approx(8.0 + 8.0 + 16.0 + 8.0)
    assert costs({"z": 31, "a": 16}) == pytest.approx(at(16) + at(16) + 2 * at(16) + at(16))


def test_sums_at_joints_are_measured_by_themselves(simulated, exported, groups_of) -> None:
    device, graph = simulated(step=8, cliff=1.3), read_graph(exported("residual"))
    found = priceable(graph, groups_of("residual").groups, lambda _: None)
    offered = {group.name: (8, group.width) for group in found.groups}
    hosts = [segment for segment in graph.segments if segment.addends]
    joints = [Joint(writer="stem", readers=((host.name, True),)) for host in hosts[:1]]
    assert find_sums(Probes(device), graph, found, (), offered) == ()
    (one,) = find_sums(Probes(device), graph, found, joints, offered)
    assert (one.layer, [width for width, _ in one.costs]) == (hosts[0].name, [8, 16])
    assert [node.op_type for node in hosts[0].nodes][-2:] == ["Add", "Relu"]
    assert hosts[0].addends  # the graph is left as it was
    _, _, height, breadth = hosts[0].output_shape
    for width, cost in one.costs:  # two operators of that many elements
        elements = width * height * breadth
        assert cost == pytest.approx(
            2 * (device.spec.simulation.overhead_us / 4 + elements / 50_000)
        )
