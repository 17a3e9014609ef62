"""Which bounds of the job stand in the way of a smaller cost: layers kept whole, and floors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from edgeprune.cost.sweep import NARROWEST
from edgeprune.errors import BudgetError
from edgeprune.pruning.channels import kept_by
from edgeprune.pruning.floors import group_floors
from edgeprune.pruning.groups import find_groups
from edgeprune.records import ChannelGroup, CostTable, GroupList
from edgeprune.stages.base import Run, branches


@contextmanager
def told(run: Run, groups: GroupList, table: CostTable) -> Iterator[None]:
    """Let budgets that cannot be reached name the bounds of the job without which less may be."""
    try:
        yield
    except BudgetError as error:
        found = [
            f"{key} ({', '.join(names)})" for key, names in binding(run, groups, table).items()
        ]
        if not found:
            raise
        raise BudgetError(
            error.what, f"{error.hint}; less may be possible without {', '.join(found)}"
        ) from None


def binding(run: Run, groups: GroupList, table: CostTable) -> dict[str, list[str]]:
    """Return the bounds that bind: key of the job -> layers that it names.

    A layer to keep does if its group could be cut otherwise, a floor if it keeps a width from being
    offered, and either if a branch could be removed without it. Groups are looked for once more.
    """
    job = run.job
    bounds = {
        "[prune] keep": job.prune.keep,
        "[guards] layers": job.guards.layers,
        "[prune] floors": tuple(job.prune.floors),
    }
    if not any(bounds.values()):
        return {}
    stay = [*job.prune.keep, *job.guards.layers]
    free = find_groups(run.model, run.data.example) if stay else groups
    known = {group.name for group in groups.groups}
    held = [(*g.outputs, *g.carriers) for g in free.groups if g.name not in known]
    open_job = job.model_copy(
        update={
            "prune": job.prune.model_copy(update={"keep": (), "floors": {}}),
            "guards": job.guards.model_copy(update={"layers": ()}),
        }
    )
    removable = {block.last for block in groups.blocks}
    whole = [
        block.layers
        for block in branches(replace(run, job=open_job), free)
        if block.last not in removable
    ]
    floors = [layer for layer in job.prune.floors if _keeps_wide(run, groups, table, layer)]
    return {
        key: names
        for key, all_names in bounds.items()
        if (
            names := [
                name
                for name in all_names
                if _named(name, whole)
                or (name in floors if key == "[prune] floors" else _named(name, held))
            ]
        )
    }


def _named(name: str, parts: Iterable[Iterable[str]]) -> bool:
    """Whether `name` is that of a layer in one of `parts`, or a prefix of one."""
    return any(kept_by((name,), layers) for layers in parts)


def _keeps_wide(run: Run, groups: GroupList, table: CostTable, layer: str) -> bool:
    """Whether a width below the floor of `layer` would be offered: full tiles are, in the main."""
    ((name, floor),) = group_floors({layer: run.job.prune.floors[layer]}, groups).items()
    group = groups[name]
    least = max(group.narrowest, -(-group.width // NARROWEST))
    step = _tile(group, table)
    return name in table.widths and -(-least // step) * step < floor


def _tile(group: ChannelGroup, table: CostTable) -> int:
    layers = {la.name for la in table.layers if group.name in (la.group_in, la.group_out)}
    periods = [
        math.lcm(entry.stair.period, entry.kernels.multiple)
        for entry in table.stairs
        if entry.layer in layers and entry.layer in (*group.outputs, *group.inputs, *group.carriers)
    ]
    return math.lcm(group.divisor, max(periods, default=1))
