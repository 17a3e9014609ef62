"""Rules whose widths are free, on a model whose channels go in bundles, and above floors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgeprune.allocation.registry import allocator
from edgeprune.allocation.task import Task
from edgeprune.cost.table import build_table
from edgeprune.data import Data
from edgeprune.export.segments import read_graph
from edgeprune.importance.scores import bundled
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.groups import cut
from edgeprune.records import SensitivityCurve


@pytest.fixture
def tied(build, exported, groups_of, simulated) -> Task:
    """A network whose grouped convolution makes channels go in bundles of four."""
    model, inputs = build("grouped")
    groups, path = groups_of("grouped").groups, exported("grouped")
    device = simulated()
    profile = profile_model(device, path, name="grouped")
    found = build_table(device, read_graph(path), groups, profile)
    x = torch.randn(32, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(0))
    batches = [(x, torch.arange(32) % 10)]
    random = torch.Generator().manual_seed(2)
    scores = {g.name: bundled(torch.rand(g.width, generator=random) ** 4, g) for g in groups}
    curves = {
        name: SensitivityCurve(
            group=name, criterion="l2", widths=w, increases=tuple(1 - k / w[-1] for k in w)
        )
        for name, w in found.widths.items()
    }
    data = Data(inputs, batches, batches, batches)
    return Task(model, data, groups, found, curves, {"l2": scores}, criterion="l2")


RULES = ("uniform", "global", "isomorphic", "retention", "adaptive_alpha", "layer_adaptive")


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("round_to", [None, 3])
def test_rules_keep_whole_bundles(tied: Task, name: str, round_to: int | None) -> None:
    assert 4 in {group.divisor for group in tied.groups}
    task = replace(tied, round_to=round_to)
    for share in (0.7, 0.4):
        kept = allocator(name).propose(task, share * task.table.dense_cost).kept
        for group in task.groups:
            stay = set(kept[group.name])
            whole = [b for b in group.bundles() if stay.issuperset(b)]
            assert sum(map(len, whole)) == len(stay) >= group.narrowest
        x = task.data.calibration[0][0]
        slim = cut(task.model, task.data.example, kept)
        assert torch.isfinite(slim(x)).all()


@pytest.mark.parametrize("name", RULES)
def test_rules_keep_to_the_floors_of_a_job(tied: Task, name: str) -> None:
    floors = {g.name: g.width // 2 // g.divisor * g.divisor for g in tied.groups}
    task = replace(tied, floors=floors)
    widths = allocator(name).propose(task, 0.2 * task.table.dense_cost).widths
    assert all(widths[group] >= floor for group, floor in floors.items())
    if name != "retention":  # it has no knob: what it keeps does not follow the cost
        assert any(widths[group] < task.widths[group] for group in floors)


def test_the_bundles_that_stay_are_those_of_which_most_was_kept(tied: Task) -> None:
    group = next(group for group in tied.groups if group.divisor == 4)
    first, second, third = group.bundles()[:3]
    kept = {g.name: tuple(range(g.width)) for g in tied.groups}
    # nine channels: two whole bundles and one channel of a third
    kept[group.name] = tuple(sorted((*first, *third, second[0])))
    assert tied.allowed(kept)[group.name] == tuple(sorted((*first, *third)))
    # two channels: fewer than the two bundles that must stay
    kept[group.name] = second[:2]
    assert set(second) < set(tied.allowed(kept)[group.name])
    assert len(tied.allowed(kept)[group.name]) == 8
