"""Grouped convolutions are priced at the widths that the runtime takes."""

from __future__ import annotations

from edgeprune.cost.table import build_table
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model


def test_prices_of_a_grouped_convolution_on_this_machine(exported, groups_of, local) -> None:
    path = exported("grouped")
    profile = profile_model(local, path, name="grouped", processes=1, rounds=5)
    groups = groups_of("grouped").groups
    divisors = {group.name: group.divisor for group in groups}
    assert max(divisors.values()) > 1
    table = build_table(local, read_graph(path), groups, profile, processes=1)
    assert set(table.widths) == set(divisors)
    for name, widths in table.widths.items():
        assert all(width % divisors[name] == 0 for width in widths)
    grouped = {layer.name: layer for layer in table.layers if layer.operator == "Conv"}["2"]
    taken = {(p.width_in, p.width_out) for p in (*table.swept, *table.prices) if p.layer == "2"}
    assert len(taken) > 1
    assert all(a % divisors[str(grouped.group_in)] == 0 for a, _ in taken)
