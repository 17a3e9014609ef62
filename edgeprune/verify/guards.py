"""Guards that a job declares: what the finished model must keep besides its overall accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from edgeprune.data import Data, batches, call, first_batches
from edgeprune.errors import DataError, UsageError
from edgeprune.pruning.channels import ROOTS, width_of
from edgeprune.records import Gate
from edgeprune.sections import GuardsSection
from edgeprune.verify.accuracy import Accuracy, Answers, are_classes

# A guard that was asked for and cannot be judged is not met.
NO_CLASSES = "not judged: some batches of the evaluation data hold no classes"


def check(guards: GuardsSection, model: nn.Module, data: Data) -> None:
    """Make sure, before any work, that the guards can be judged.

    Raises:
        DataError: a guard compares classes, and model or data have none; or a label is no class.
        UsageError: a layer to keep does not exist, or has no channels of its own.
    """
    layers = dict(model.named_modules())
    for name in guards.layers:
        if name not in layers or not isinstance(layers[name], ROOTS):
            listed = ", ".join(n for n, m in layers.items() if isinstance(m, ROOTS))
            raise UsageError(f"guards.layers: no layer {name!r} with channels", f"known: {listed}")
    if guards.class_floor is None and guards.agreement is None:
        return
    part, name = data.evaluation
    inputs, target = first_batches(part, 1, name)[0]
    output = call(model, inputs)
    if not are_classes(output, target):
        raise DataError(
            "guards: class_floor and agreement compare classes, but the model gives "
            f"{list(output.shape)} and the targets are {target.dtype} {list(target.shape)}",
            "leave them out, or give class labels and one output a class",
        )
    if guards.class_floor is None:
        return
    largest = max(int(target.max()) for _, target in batches(part, name) if target.numel())
    if largest >= output.shape[1]:
        raise DataError(
            f"guards: class_floor needs the class of every sample, but {name} holds the label "
            f"{largest}, and the model gives {output.shape[1]} classes, numbered from 0",
            "repair the labels; negative ones, such as -100, mark what is to be left out",
        )


def gates(
    guards: GuardsSection,
    dense: Accuracy,
    slim: Accuracy,
    dense_model: nn.Module,
    slim_model: nn.Module,
) -> tuple[Gate, ...]:
    """Return a gate for each guard of the job; the note of a broken one names class or layer."""
    found: list[Gate] = []
    if guards.class_floor is not None:
        shares = (
            {}
            if slim.answers is None or slim.labels is None
            else class_shares(slim.answers, slim.labels)
        )
        found.append(_floor(guards.class_floor, shares))
    if guards.agreement is not None:
        found.append(_agreement(guards.agreement, dense.answers, slim.answers))
    if guards.layers:
        found.append(_layers(guards.layers, dense_model, slim_model))
    return tuple(found)


def class_shares(answers: Answers, labels: Answers) -> dict[int, float]:
    """Return class -> share of its samples that are answered right; classes without any are absent.

    Negative labels mark samples to be left out.
    """
    return {
        int(label): float((answers[labels == label] == label).mean())
        for label in np.unique(labels[labels >= 0])
    }


def _floor(limit: float, shares: Mapping[int, float]) -> Gate:
    if not shares:
        return Gate(name="class_floor", met=False, limit=limit, value=0.0, note=NO_CLASSES)
    broken = sorted((share, label) for label, share in shares.items() if share < limit)
    worst = min(shares, key=lambda label: (shares[label], label))
    told = ", ".join(f"class {label}: {share:.4f}" for share, label in broken)
    return Gate(
        name="class_floor",
        met=not broken,
        limit=limit,
        value=shares[worst],
        note=f"under it: {told}" if broken else f"lowest: class {worst} of {len(shares)}",
    )


def _agreement(limit: float, dense: Answers | None, slim: Answers | None) -> Gate:
    if dense is None or slim is None:
        return Gate(name="agreement", met=False, limit=limit, value=0.0, note=NO_CLASSES)
    share = float((dense == slim).mean())
    note = f"the dense model's answer, over {len(slim)} samples"
    return Gate(name="agreement", met=share >= limit, limit=limit, value=share, note=note)


def _layers(names: tuple[str, ...], dense_model: nn.Module, slim_model: nn.Module) -> Gate:
    dense, slim = dict(dense_model.named_modules()), dict(slim_model.named_modules())
    widths = {
        name: (width_of(dense[name]), width_of(slim[name]) if name in slim else 0) for name in names
    }
    cut = [
        f"{name}: {before} -> {after}"
        for name, (before, after) in widths.items()
        if after != before
    ]
    return Gate(
        name="layers_kept",
        met=not cut,
        limit=len(names),
        value=len(names) - len(cut),
        note=f"cut: {', '.join(cut)}" if cut else "",
    )
