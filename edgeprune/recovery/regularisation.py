"""Training that drives whole channels towards zero before they are cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgeprune.data import Batch, Data, call, first_batches
from edgeprune.errors import DataError, UsageError
from edgeprune.methods import METHODS, unknown
from edgeprune.pruning.channels import CONVOLUTIONS, is_carrier
from edgeprune.pruning.groups import group_scores, regulariser
from edgeprune.pruning.tracing import trains
from edgeprune.records import ChannelGroup
from edgeprune.recovery.batchnorm import Measurable
from edgeprune.recovery.finetuning import CHECK_SAMPLES, metric_on
from edgeprune.recovery.layout import fast_layout, training_layout
from edgeprune.recovery.training import (
    GRADIENT_NORM,
    endless,
    finite,
    optimizer_of,
    require_labelled,
)
from edgeprune.sections import RegulariseSection

GROWTHS = 10
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
        UsageError: no such kind, `bn_scale` for a model without BatchNorm, or see `require_plain`.
    """
    if kind not in KINDS:
        raise UsageError(unknown("regularisation", kind, KINDS))
    require_plain(model, groups, kind)
    scales = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if kind == "bn_scale" and not any(isinstance(m, scales) and m.affine for m in model.modules()):
        raise UsageError(
            "regularisation bn_scale: the model has no BatchNorm with scales",
            "take group_norm or growing",
        )
    engine = regulariser(model, inputs, [group.name for group in groups], kind, strength)

    def apply() -> None:
        frozen = [p for p in model.parameters() if not p.requires_grad]
        for parameter in frozen:  # torch-pruning takes a bias to have a gradient if the weight has
            parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            engine.regularize(model)
        for parameter in frozen:
            parameter.grad = None

    def grow() -> None:
        if kind == "growing":
            with torch.no_grad():
                engine.update_reg()

    return Regulariser(apply, grow)


def require_plain(model: nn.Module, groups: Sequence[ChannelGroup], kind: str) -> None:
    """Make sure that torch-pruning's penalties on weights know the layers of all groups.

    Raises:
        UsageError: a grouped convolution is among them, of whose input channels a weight sees one
            part alone; depthwise ones are known.
    """
    if kind == "bn_scale":
        return
    layers = dict(model.named_modules())
    for group in groups:
        for name in (*group.outputs, *group.inputs):
            layer = layers[name]
            if isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not is_carrier(layer):
                raise UsageError(
                    f"regularisation {kind}: {name} is a grouped convolution, which it does not "
                    "know",
                    f'take bn_scale, leave out [regularise], or [prune] keep = ["{group.name}"]',
                )


class Trained(NamedTuple):
    """A model trained with a penalty, its validation metric before and after, and the history.

    `history` holds (step, loss, share of the channels' sizes that the weaker half holds).
    """

    model: nn.Module
    before: float
    after: float
    history: tuple[tuple[int, float, float], ...]


def require_training(data: Data) -> Iterable[Batch]:
    """Return the training batches.

    Raises:
        DataError: there are none.
    """
    if data.train is None:
        raise DataError(
            "regularise: the data has no training batches", "give train, or leave out [regularise]"
        )
    return data.train


def train_regularised(
    model: nn.Module,
    data: Data,
    groups: Sequence[ChannelGroup],
    settings: RegulariseSection,
    *,
    seed: int,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Trained:
    """Return `model` after `settings.steps` steps of training with the penalty, on labels alone.

    SGD with Nesterov momentum, one-cycle schedule, clipped gradients, as in recovery; the penalty
    is added to the gradients after clipping. `growing` grows ten times, spread over the steps.

    Raises:
        DataError: there is no training data, a batch of it has no labels, or the loss stops being
            finite.
        UsageError: the model has nothing to regularise, or all of it is frozen.
    """
    train = require_training(data)
    if not trains(model):
        raise UsageError(
            "regularise: every parameter of the model is frozen (requires_grad is false)",
            "leave out [regularise], or let the model factory return layers that train",
        )
    torch.manual_seed(seed)
    trained = fast_layout(copy.deepcopy(model))
    checked = first_batches(data.validation, CHECK_SAMPLES, "validation")
    before = metric_on(trained, data, checked)
    penalty = regularise(trained, data.example, groups, settings.kind, settings.strength)
    optimizer, schedule = optimizer_of(trained, settings.learning_rate, settings.steps)
    stream, layout = endless(train, Measurable([trained])), training_layout(trained)
    history: list[tuple[int, float, float]] = []
    grown = max(1, settings.steps // GROWTHS)
    running = 0.0
    for step in range(1, settings.steps + 1):
        trained.train()
        inputs, target = next(stream)
        loss = data.loss(call(trained, tuple(map(layout, inputs))), target)
        require_labelled(loss, inputs, target, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), GRADIENT_NORM)
        penalty.apply()
        optimizer.step()
        schedule.step()
        value = finite(loss, step, "[regularise] learning_rate or strength")
        running = value if step == 1 else 0.95 * running + 0.05 * value
        if step % grown == 0:
            _finite_weights(trained, step)
            penalty.grow()
            history.append((step, running, weak_share(trained, data, groups, settings.kind)))
        progress(step, settings.steps, f"loss {running:.3f}")
    trained.eval()
    return Trained(trained, before, metric_on(trained, data, checked), tuple(history))


def _finite_weights(model: nn.Module, step: int) -> None:
    """Raise where a step has ruined the model: its weights are scored before the next loss."""
    if not all(bool(torch.isfinite(p.detach().square().sum())) for p in model.parameters()):
        raise DataError(
            f"training: weights are no longer finite, or too large to score, after step {step}",
            "lower [regularise] learning_rate or strength",
        )


def weak_share(model: nn.Module, data: Data, groups: Sequence[ChannelGroup], kind: str) -> float:
    """Return the share of all channels' sizes that the weaker half of each group holds.

    Sizes are L2 norms over the group, for `bn_scale` the scales. The share falls as regularisation
    of this `kind` separates channels that can go from those that stay.
    """
    scales = kind == "bn_scale"
    weak = total = 0.0
    names = [group.name for group in groups]
    scores = group_scores(model, data.example, "bn_scale" if scales else "l2", names)
    for group in groups:
        if group.name not in scores:
            continue
        sizes = scores[group.name].double()
        sizes = (sizes if scales else sizes.sqrt()).sort().values
        weak += float(sizes[: len(sizes) // 2].sum())
        total += float(sizes.sum())
    return weak / total if total else 0.0
