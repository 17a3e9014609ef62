from __future__ import annotations

import pytest

from edgeprune.cost.table import build_table
from edgeprune.errors import UsageError
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.floors import group_floors


def test_shares_and_counts_and_the_largest_of_a_group(groups_of) -> None:
    groups = groups_of("residual")
    second = next(group.name for group in groups.groups if "b2" in group.outputs)
    floors = group_floors({"stem": 0.5, "a2": 12, "a1": 0.3, "b2": 24}, groups)
    assert floors == {"stem": 12, "a1": 5, second: 24}


def test_faults_are_told_at_once(groups_of) -> None:
    with pytest.raises(UsageError) as caught:
        group_floors({"nothing": 4, "stem": 17, "head": 3}, groups_of("residual"))
    assert "nothing: no such layer" in caught.value.what
    assert "stem: 17 is above its width of 16 channels" in caught.value.what
    assert "head: it is never cut: it is the model's output" in caught.value.what


def test_no_width_below_a_floor_is_offered(build, exported, groups_of, simulated) -> None:
    path, groups = exported("plain"), groups_of("plain").groups
    device = simulated(step=4)
    profile = profile_model(device, path, name="plain")
    free = build_table(device, read_graph(path), groups, profile)
    held = build_table(device, read_graph(path), groups, profile, floors={"conv1": 9})
    assert free.widths["conv1"][0] == 4
    assert held.widths["conv1"][0] == 12
    assert held.widths["conv2"] == free.widths["conv2"]
