"""The channels that torch-pruning's own pruners keep, given scores of ours."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.pruning.channels import ROOTS
from edgeprune.pruning.groups import pruner

Inputs = tuple[Tensor, ...]


def torch_pruning_keeps(
    model: nn.Module,
    inputs: Inputs,
    scores: Mapping[str, Tensor],
    share: float,
    *,
    one_ranking: bool = False,
    isomorphic: bool = False,
    round_to: int | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return group -> channels that stay when a pruner of torch-pruning cuts `share` of them.

    It is its BasePruner in one step, as its users run it (DepGraph, arXiv 2301.12900): each group
    alone, or all channels in one ranking, or one ranking for each set of groups of the same
    structure (isomorphic pruning, arXiv 2407.04616). A group that would lose all its channels is
    left whole.

    Args:
        model: the dense model; it is left alone.
        inputs: example inputs.
        scores: group -> score of each channel [width], comparable where one ranking spans groups;
            other groups are not cut.
        share: of the channels of each ranking that goes, 0 to 1.
        one_ranking: rank the channels of all groups together.
        isomorphic: rank groups of the same structure together.
        round_to: widths are rounded down to a multiple of this.
    """
    copied = copy.deepcopy(model).eval()
    names = {module: name for name, module in copied.named_modules()}

    def importance(group: Any) -> Tensor | None:
        return scores.get(names.get(group[0].dep.target.module, ""))

    kept = {name: tuple(range(len(score))) for name, score in scores.items()}
    found = pruner(
        copied,
        inputs,
        tuple(scores),
        importance=importance,
        pruning_ratio=share,
        global_pruning=one_ranking or isomorphic,
        isomorphic=isomorphic,
        round_to=round_to,
        root_module_types=list(ROOTS),
    )
    with torch.no_grad():
        for group in found.step(interactive=True):
            name = names[group[0].dep.target.module]
            gone = {int(k) for k in group[0].idxs}
            kept[name] = tuple(k for k in kept[name] if k not in gone)
    return kept
