"""Every method by name: what kind it is, what it does, and whether this version has it.

This module imports nothing heavy, so that a job file can be checked before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from edgeprune.errors import did_you_mean

MethodKind = Literal[
    "importance",
    "fusion",
    "allocation",
    "schedule",
    "regularisation",
    "recovery",
    "normalisation",
    "mask",
    "transform",
]


class Method(NamedTuple):
    """One method; (`kind`, `name`) is unique."""

    kind: MethodKind
    name: str
    summary: str
    available: bool = True


_PLANNED = False

METHODS: tuple[Method, ...] = (
    Method("importance", "auto", "of five criteria, for each group the best: [prune] importance"),
    Method("importance", "random", "uniform, seeded: the baseline"),
    Method("importance", "l1", "sum of absolute weights of the group"),
    Method("importance", "l2", "sum of squared weights of the group"),
    Method("importance", "variance", "variance of the channel's weights"),
    Method("importance", "bn_scale", "absolute scale of the BatchNorm layers"),
    Method("importance", "lamp", "squared weights over those of all channels not smaller"),
    Method("importance", "fpgm", "distance from the other channels' weights"),
    Method("importance", "activation", "mean absolute activation"),
    Method("importance", "apoz", "share of activations that are not zero"),
    Method("importance", "gradient", "absolute gradient of the loss, summed over batches"),
    Method("importance", "taylor", "first-order change of the loss"),
    Method("importance", "fisher", "mean squared per-sample gradient"),
    Method("importance", "snip", "connection sensitivity: absolute weight times gradient"),
    Method("importance", "grasp", "how much of the gradient's norm hangs on the channel"),
    Method("importance", "synflow", "product of absolute weights along all paths, no data"),
    Method("importance", "hessian", "trace of the channel's Hessian block times squared norm"),
    Method("importance", "output_error", "what the next layer's outputs would lose, greedily"),
    Method("importance", "refit_error", "what they would lose once it is re-fitted, greedily"),
    Method("importance", "fused", "weights, activations, gradients and cooperation, combined"),
    Method("fusion", "simple", "mean of the four families"),
    Method("fusion", "adaptive", "families weighted by how well they discriminate"),
    Method("fusion", "learned", "non-negative weights fitted to measured loss increases"),
    Method("allocation", "exact", "least summed loss within the budget, as a MILP"),
    Method("allocation", "uniform", "the same share of every group"),
    Method("allocation", "global", "one ranking of all channels"),
    Method("allocation", "isomorphic", "one ranking for each kind of group structure"),
    Method("allocation", "layer_adaptive", "share scaled by 1 - sensitivity"),
    Method("allocation", "retention", "smallest set that holds a share of importance"),
    Method("allocation", "adaptive_alpha", "share scaled by 1 + cv of the weights"),
    Method("allocation", "hardware_penalty", "greedy by importance over hardware cost"),
    Method("allocation", "netadapt", "step by step, the group that loses least"),
    Method("allocation", "halp", "knapsack of channel chunks under latency"),
    Method("allocation", "evolutionary", "NSGA-II over widths"),
    Method("allocation", "annealing", "simulated annealing over widths"),
    Method("schedule", "one_shot", "cut once, then recover"),
    Method("schedule", "iterative", "a list of (epoch, amount)"),
    Method("schedule", "progressive", "stages until the metric falls"),
    Method("schedule", "lottery", "train, cut, rewind, train again"),
    Method("regularisation", "group_norm", "group norms, weighted against the weakest"),
    Method("regularisation", "bn_scale", "L1 on BatchNorm scales (network slimming)"),
    Method("regularisation", "growing", "a penalty that grows (GReg)"),
    Method("recovery", "batchnorm", "recalibrated BatchNorm statistics"),
    Method("recovery", "reconstruction", "consumer layers re-fitted by least squares"),
    Method("recovery", "finetuning", "SGD or AdamW, on training data or calibration inputs"),
    Method("recovery", "distillation", "learning from the dense model's outputs"),
    Method("normalisation", "mean", "over the mean of the group"),
    Method("normalisation", "none", "scores as they are"),
    Method("normalisation", "sum", "over the sum of the group"),
    Method("normalisation", "max", "over the largest score of the group"),
    Method("normalisation", "l2", "over the norm of the group's scores"),
    Method("normalisation", "minmax", "from 0 to 1 within the group"),
    Method("normalisation", "gaussian", "mean 0 and standard deviation 1 within the group"),
    Method("normalisation", "lamp", "over the sum of the scores not smaller"),
    Method("normalisation", "rank", "place within the group, from 0 to 1"),
    Method("mask", "auto", "global on a sparse accelerator, ln_structured elsewhere"),
    Method("mask", "l1", "unstructured: smallest absolute weights of each layer"),
    Method("mask", "random", "unstructured: drawn, the same share of each layer"),
    Method("mask", "ln_structured", "whole channels by their L2 norm, then removed"),
    Method("mask", "global", "unstructured: smallest absolute weights of the whole model"),
    Method("mask", "iterative", "l1 in several rounds, with recovery between them"),
    Method("transform", "linear_collapse", "Linear - activation - Linear into one Linear"),
    Method("transform", "input_adaptive", "two slim models behind one gate", _PLANNED),
    Method("transform", "data_holders", "scores of several data holders, merged"),
)  # fmt: skip


def names(kind: MethodKind) -> tuple[str, ...]:
    """Return the names of the available methods of `kind`, in the order of the table."""
    return tuple(m.name for m in METHODS if m.kind == kind and m.available)


def unknown(kind: MethodKind, name: str, known: Sequence[str] = ()) -> str:
    """Return the message for a name that is not an available method of `kind`; lists the known."""
    choices = tuple(known) or names(kind)
    planned = any(m.kind == kind and m.name == name for m in METHODS)
    what = (
        f"{kind} {name!r} is planned, not available yet"
        if planned
        else f"no {kind} {name!r}{did_you_mean(name, choices)}"
    )
    return f"{what} (known: {', '.join(choices)})"


def listing() -> list[dict[str, str]]:
    """Return one row a method for `edgeprune methods --json`: kind, name, status, summary."""
    return [
        {
            "kind": method.kind,
            "name": method.name,
            "status": "available" if method.available else "planned",
            "summary": method.summary,
        }
        for method in METHODS
    ]
