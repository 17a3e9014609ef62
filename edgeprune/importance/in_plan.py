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

from torch import nn

from edgeprune.data import Data
from edgeprune.importance.consumer_sums import consumer_sums
from edgeprune.importance.refit_error import Consumer, refit_order
from edgeprune.importance.scores import bundled, keep_best
from edgeprune.importance.scoring import Scoring
from edgeprune.pruning.groups import members
from edgeprune.records import ChannelGroup

SWEEPS = 2
Kept = Mapping[str, Sequence[int]]


class InPlan:
    """Ranks the channels of any plan of one model; what it needs of the data is taken in once.

    Args:
        model: the model before the cut, in eval mode, without branches that plans remove.
        data: labelled calibration batches and the loss.
        groups: the groups to rank; of each, a consumer must be a convolution without groups or a
            linear layer.
        samples: calibration samples to look at, at most.
        seed: of the positions that are drawn.

    Raises:
        UsageError: the consumers of a group cannot be read.
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
        traced = members(model, data.example)
        self._groups = {group.name: group for group in groups if group.name in traced}
        wanted = {name: traced[name] for name in self._groups}
        scoring = Scoring(model, data, wanted, samples, seed, criterion="refit_error")
        names = {id(layer): name for name, layer in scoring.layers.items()}
        self._consumers = {
            name: [(names[id(sums.layer)], Consumer(sums, places)) for sums, places in parts]
            for name, parts in consumer_sums(scoring).items()
        }
        self._outputs = {
            member.layer: (name, member.indices)
            for name, found in traced.items()
            for member in found
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
                consumers = self._consumers[name]
                staying = [self._staying(layer, now) for layer, _ in consumers]
                if ranked.get(name) == staying:
                    continue
                ranked[name] = staying
                group, width = self._groups[name], len(now[name])
                order = refit_order(
                    [one.within(at) for (_, one), at in zip(consumers, staying, strict=True)],
                    width if group.divisor == 1 else 0,
                )
                now[name] = keep_best(bundled(order, group), width)
        return {name: now[name] for name in cut}

    def _staying(self, layer: str, kept: Kept) -> tuple[int, ...]:
        """Return which outputs of a layer stay; none stands for all."""
        group, indices = self._outputs.get(layer, ("", ()))
        return tuple(output for channel in kept.get(group, ()) for output in indices[channel])
