"""Every importance criterion by name, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgeprune.errors import UsageError
from edgeprune.importance import (
    activations,
    curvature,
    flow,
    gradients,
    output_error,
    refit_error,
    weights,
)
from edgeprune.importance.fusion import fused
from edgeprune.importance.scoring import Scores, Scoring
from edgeprune.methods import unknown

ALL = "convolutions, linear, normalisation, depthwise, recurrent"


class Criterion(NamedTuple):
    """One criterion: higher scores are kept.

    Args:
        score: scores every group of a `Scoring`.
        labels: whether it needs labelled calibration data.
        gradients: whether it differentiates the loss.
        layers: the types of layer whose weights or activations it reads.
    """

    score: Callable[[Scoring], Scores]
    labels: bool = False
    gradients: bool = False
    layers: str = ALL


REFITTED = "inputs of convolutions without groups and linear"
READERS = "inputs of convolutions, linear and recurrent layers"
CRITERIA: dict[str, Criterion] = {
    "taylor": Criterion(
        gradients.taylor, True, True, "convolutions, linear, LayerNorm, depthwise, recurrent"
    ),
    "l1": Criterion(weights.l1),
    "l2": Criterion(weights.l2),
    "random": Criterion(weights.random, layers="any"),
    "variance": Criterion(weights.variance),
    "bn_scale": Criterion(weights.bn_scale, layers="BatchNorm"),
    "lamp": Criterion(weights.lamp),
    "fpgm": Criterion(weights.fpgm, layers="convolutions, linear, recurrent"),
    "activation": Criterion(activations.activation, layers=READERS),
    "apoz": Criterion(activations.apoz, layers=READERS),
    "gradient": Criterion(gradients.gradient, True, True),
    "fisher": Criterion(gradients.fisher, True, True),
    "snip": Criterion(gradients.snip, True, True),
    "grasp": Criterion(curvature.grasp, True, True),
    "hessian": Criterion(curvature.hessian, True, True),
    "synflow": Criterion(flow.synflow, gradients=True),
    "output_error": Criterion(output_error.output_error, True, True, REFITTED),
    "refit_error": Criterion(refit_error.refit_error, True, True, REFITTED),
    "fused": Criterion(fused, True, True, READERS),
}


def criterion(name: str) -> Criterion:
    """Return the criterion called `name`.

    Raises:
        UsageError: there is none; lists the known.
    """
    if name not in CRITERIA:
        raise UsageError(unknown("importance", name, tuple(CRITERIA)), "edgeprune methods")
    return CRITERIA[name]
