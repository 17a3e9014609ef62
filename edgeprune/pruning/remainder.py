"""What earlier steps of a schedule left of the dense model, and how later plans refer to it.

Plans always number channels as the dense model does, so that its prices, its file and every plan
stay valid from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgeprune.errors import InternalCheckError
from edgeprune.records import CostTable, GroupList, PlannedGroup, WidthPlan


@dataclass(frozen=True)
class Remainder:
    """A model of which each group holds only the `kept` channels of the dense one.

    Args:
        model: in eval mode.
        kept: group -> channels that are left, ascending, in the dense numbering; groups that are
            not named are whole.
    """

    model: nn.Module
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def groups(self, groups: GroupList) -> GroupList:
        """Return the groups at the widths that are left."""
        left = (
            group.model_copy(update={"width": len(self.kept.get(group.name, range(group.width)))})
            for group in groups.groups
        )
        return groups.model_copy(update={"groups": tuple(left)})

    def table(self, table: CostTable) -> CostTable:
        """Return the cost table with the widths that can still be taken, the present one last.

        Raises:
            InternalCheckError: a group was cut to a width that the table does not offer.
        """
        offered: dict[str, tuple[int, ...]] = {}
        for name, widths in table.widths.items():
            present = len(self.kept[name]) if name in self.kept else widths[-1]
            if present not in widths:
                raise InternalCheckError(f"group {name} has {present} channels, never offered")
            offered[name] = tuple(width for width in widths if width <= present)
        return table.model_copy(update={"widths": offered})

    def scores(self, scores: Mapping[str, Tensor], groups: GroupList) -> dict[str, Tensor]:
        """Return scores of the channels left [width] in the numbering of the dense `groups`.

        Channels that are gone score a little less than the least of those that are left.
        """
        found: dict[str, Tensor] = {}
        for name, score in scores.items():
            kept = self.kept.get(name)
            if kept is None:
                found[name] = score
                continue
            low, high = float(score.min()), float(score.max())
            below = low - 0.01 * max(high - low, abs(low), 1e-6)
            whole = torch.full((groups[name].width,), below, dtype=score.dtype)
            whole[list(kept)] = score
            found[name] = whole
        return found

    def relative(self, plan: WidthPlan) -> WidthPlan:
        """Return `plan`, made for the dense model, in the numbering of what is left.

        Raises:
            InternalCheckError: the plan keeps a channel that is gone.
        """
        groups: dict[str, PlannedGroup] = {}
        for name, planned in plan.groups.items():
            left = self.kept.get(name, tuple(range(planned.before)))
            place = {channel: position for position, channel in enumerate(left)}
            if gone := [channel for channel in planned.kept if channel not in place]:
                raise InternalCheckError(
                    f"the plan keeps channel {gone[0]} of {name}, which is gone"
                )
            groups[name] = planned.model_copy(
                update={"before": len(left), "kept": tuple(place[c] for c in planned.kept)}
            )
        return plan.model_copy(update={"groups": groups})

    @staticmethod
    def of(model: nn.Module, plan: WidthPlan) -> Remainder:
        """Return what `plan` left: `model` has its widths."""
        return Remainder(model, {name: group.kept for name, group in plan.groups.items()})
