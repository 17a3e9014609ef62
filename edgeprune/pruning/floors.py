"""The narrowest width that a job allows for a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgeprune.errors import UsageError
from edgeprune.records import GroupList


def group_floors(floors: Mapping[str, float], groups: GroupList) -> dict[str, int]:
    """Return group -> smallest width allowed, from layer -> width, or share of it below 1.

    Layers of one group share a width, so the largest of their floors holds.

    Raises:
        UsageError: a floor names no layer that produces channels, or lies above its width; all
            such faults are told at once.
    """
    owner = {layer: group for group in groups.groups for layer in (*group.outputs, *group.carriers)}
    skipped = {group.name: group.reason for group in groups.skipped}
    found: dict[str, int] = {}
    faults = []
    for layer, floor in floors.items():
        group = owner.get(layer)
        if group is None:
            why = f"it is never cut: {skipped[layer]}" if layer in skipped else "no such layer"
            faults.append(f"prune.floors: {layer}: {why}")
            continue
        width = math.ceil(floor * group.width) if floor < 1 else math.ceil(floor)
        if width > group.width:
            faults.append(
                f"prune.floors: {layer}: {width} is above its width of {group.width} channels"
            )
        found[group.name] = max(width, found.get(group.name, 0))
    if faults:
        raise UsageError(
            "\n".join(faults), f"layers that can be cut: {', '.join(sorted(owner)) or 'none'}"
        )
    return found
