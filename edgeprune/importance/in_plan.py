"""Channels ranked by `refit_error` for what a plan keeps, in place of for the whole dense model.

Alone, a group is scored by what all outputs of its consumers would miss. A plan cuts many of those
outputs as well, and what they would miss is no loss. So each group is ranked by the errors of the
outputs that the plan keeps; from the last group to the first, since what is kept there says which
outputs count further in front, and once more, since skip connections lead back. Inputs and
gradients are those of the model before the cut, but without the branches that the plan removes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.importance.activations import consumers
from edgeprune.importance.consumer_sums import consumer_sums
from edgeprune.importance.refit_error import Consumer, refit_order
from edgeprune.importance.scores import bundled, keep_best
from edgeprune.importance.scoring import Scoring
from edgeprune.pruning.groups import members
from edgeprune.pruning.tracing import unfreeze
from edgeprune.records import ChannelGroup
from edgeprune.recovery.reconstruction import obstacle

SWEEPS = 2
Kept = Mapping[str, Sequence[int]]


class InPlan:
    """Ranks the channels of any plan of one model; what it needs of the data is taken in once.

    Args:
        model: the model before the cut, in eval mode, without branches that plans remove.
        data: labelled calibration batches and the loss.
        groups: the groups to rank. Those without a consumer that is a convolution without groups
            or a linear layer are left as they are: their only one may have gone with a branch.
        samples: calibration samples to look at, at most.
        seed: of the positions that are drawn.

    Raises:
        DataError: there are no calibration batches, or no labels.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        groups: Sequence[ChannelGroup],
        *,
        samples: int,
        seed: int = 0,
    ) -> None:
        model = copy.deepcopy(model).eval()
        unfreeze(model)
        traced = members(model, data.example)
        scoring = Scoring(model, data, traced, samples, seed, criterion="refit_error")
        self._groups = {group.name: group for group in groups if _readable(scoring, group.name)}
        wanted = {name: traced[name] for name in self._groups}
        scoring = replace(scoring, members=wanted)
        names = {id(layer): name for name, layer in scoring.layers.items()}
        found = consumer_sums(scoring) if wanted else {}
        self._consumers = {
            name: [(names[id(sums.layer)], Consumer(sums, places)) for sums, places in parts]
            for name, parts in found.items()
        }
        self._outputs = {
            member.layer: (name, member.indices)
            for name, layers in traced.items()
            for member in layers
            if member.side == "out"
        }

    def __call__(self, kept: Kept) -> dict[str, tuple[int, ...]]:
        """Return group -> channels that stay, as many as in `kept`, for the groups that are cut.

        Args:
            kept: group -> channels that stay; of groups that are not ranked here they say which
                outputs count. Groups that are missing are whole.
        """
        now = {name: tuple(channels) for name, channels in kept.items()}
        cut = [
            name for name, group in self._groups.items() if 0 < len(now.get(name, ())) < group.width
        ]
        ranked: dict[str, list[tuple[int, ...]]] = {}  # what outputs stayed when a group was ranked
        for _ in range(SWEEPS):
            for name in reversed(cut):
                parts = self._consumers[name]
                staying = [self._staying(layer, now) for layer, _ in parts]
                if ranked.get(name) == staying:
                    continue
                ranked[name] = staying
                group, width = self._groups[name], len(now[name])
                order = refit_order(
                    [one.within(at) for (_, one), at in zip(parts, staying, strict=True)],
                    width if group.divisor == 1 else 0,
                )
                now[name] = keep_best(bundled(order, group), width)
        return {name: now[name] for name in cut}

    def _staying(self, layer: str, kept: Kept) -> tuple[int, ...]:
        """Return which outputs of a layer stay; none stands for all."""
        group, indices = self._outputs.get(layer, ("", ()))
        return tuple(output for channel in kept.get(group, ()) for output in indices[channel])


def _readable(scoring: Scoring, group: str) -> bool:
    """Whether one of the consumers of a group can be read, if it is there at all."""
    if group not in scoring.members:
        return False
    alone = replace(scoring, members={group: scoring.members[group]})
    try:
        found = consumers(alone)[group]
    except UsageError:
        return False
    return any(not obstacle(scoring.layers[member.layer]) for member in found)
