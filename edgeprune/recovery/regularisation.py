"""Training that drives whole channels towards zero before they are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgeprune.errors import UsageError
from edgeprune.methods import METHODS, unknown
from edgeprune.pruning.groups import regulariser
from edgeprune.records import ChannelGroup

KINDS = tuple(method.name for method in METHODS if method.kind == "regularisation")


class Regulariser(NamedTuple):
    """What to call while training: `apply` after every backward pass, `grow` every now and then."""

    apply: Callable[[], None]
    grow: Callable[[], None]


def regularise(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    groups: Sequence[ChannelGroup],
    kind: str,
    strength: float = 1e-4,
) -> Regulariser:
    """Return the regulariser `kind` for training `model`; `apply` adds to the gradients.

    `group_norm` (DepGraph, arXiv 2301.12900): w gets strength * gamma[k] * w, for every w of
    channel k in its group, where gamma[k] = 2^(4 * (I_max - I[k]) / (I_max - I_min)) and I[k] is
    the L2 norm of the channel: weak channels are pulled down up to 16 times as hard as strong ones.
    `bn_scale` (network slimming, arXiv 1708.06519): the scales of BatchNorm get
    strength * sign(gamma). `growing` (GReg, arXiv 2012.09243): w gets reg[k] * w, where reg[k]
    starts at strength and each `grow` adds strength * (I_max - I[k]) / (I_max - I_min), of squared
    norms; torch-pruning leaves BatchNorm out of it.

    Args:
        model: the model to be trained, in place.
        inputs: example inputs.
        groups: the groups that will be cut; other layers are not touched.
        kind: one of the three.
        strength: of the penalty.

    Raises:
        UsageError: no such kind, or `bn_scale` for a model without BatchNorm.
    """
    if kind not in KINDS:
        raise UsageError(unknown("regularisation", kind, KINDS))
    scales = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if kind == "bn_scale" and not any(isinstance(m, scales) and m.affine for m in model.modules()):
        raise UsageError(
            "regularisation bn_scale: the model has no BatchNorm with scales",
            "take group_norm or growing",
        )
    engine = regulariser(model, inputs, [group.name for group in groups], kind, strength)

    def apply() -> None:
        with torch.no_grad():
            engine.regularize(model)

    def grow() -> None:
        if kind == "growing":
            with torch.no_grad():
                engine.update_reg()

    return Regulariser(apply, grow)
