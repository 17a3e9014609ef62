"""Gates of channels learned in place of scores: which channels serve best as they are.

Each channel of a group has a gate g. With the weights frozen and the widths given, the model runs
with the channels of largest g alone, and the loss moves g as if the step were a sigmoid: a
straight-through estimator (arXiv 1308.3432), used to find subnetworks by "edge-popup"
(arXiv 1911.13299), here with channels in the place of edges:

    mask[k] = 1 if g[k] is among the `width` largest of its group, else 0
    d mask[k] / d g[k] := sigmoid'(g[k])

Channels that can only go in bundles are chosen by the mean gate of each bundle. BatchNorm layers
normalise by the statistics of the batch, as they will after recalibration. All groups are chosen
together, which no score of single channels can. Made for plans that no training follows: what
trains well afterwards is something else (docs/methods.md).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call, first_batches
from edgeprune.errors import UsageError
from edgeprune.importance.activations import consumers, watching
from edgeprune.importance.scores import bundled, keep_best
from edgeprune.importance.scoring import Scores, Scoring
from edgeprune.pruning.groups import members
from edgeprune.records import ChannelGroup
from edgeprune.recovery.batchnorm import NORMS
from edgeprune.recovery.training import finite

STEPS, EVERY = 200, 10  # of Adam; of them, how many lie between two choices
RATE = 0.05  # falls to 0 along a half cosine
SAMPLES, BATCH = 2000, 128  # calibration samples at most, and in a step


def learned_gates(
    model: nn.Module,
    data: Data,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    *,
    scale_free: bool = False,
    seed: int = 0,
) -> Iterator[Scores]:
    """Yield group -> gates [width], those of a bundle alike, every 10 steps; the last after 200.

    Groups whose consumers cannot be read keep what they have, and are not among the gates.

    Args:
        model: the dense model; it is left alone.
        data: labelled calibration batches and the loss.
        groups: those of the model, for their bundles.
        kept: group -> channels that stay, for a start; they say how many.
        scale_free: whether a factor of the outputs is learned with the gates: where the metric does
            not depend on it, they need not make up for it.
        seed: of the order of the batches.

    Raises:
        DataError: there are no calibration batches, or the loss stops being finite.
    """
    scoring = _scoring(model, data, kept)
    masks = {name: _indicator(width, kept[name]) for name, width in scoring.widths.items()}
    if not masks:
        return
    bundles = {group.name: group for group in groups}
    gates = {name: (2 * mask - 1).requires_grad_() for name, mask in masks.items()}
    chosen = first_batches(data.calibration, SAMPLES, "calibration")
    parts = [
        (tuple(x[at : at + BATCH] for x in inputs), target[at : at + BATCH])
        for inputs, target in chosen
        for at in range(0, len(target), BATCH)
    ]
    parts = [part for part in parts if len(part[1]) > 1] or parts  # BatchNorm needs two
    scale = torch.zeros((), requires_grad=scale_free)  # its logarithm
    optimizer = torch.optim.Adam([*gates.values(), *([scale] if scale_free else [])], lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / STEPS)) / 2
    )
    order = torch.Generator().manual_seed(seed)
    with watching(scoring, lambda group, _, a: a * masks[group]):
        waiting: list[int] = []
        for step in range(1, STEPS + 1):
            waiting = waiting or torch.randperm(len(parts), generator=order).tolist()
            inputs, target = parts[waiting.pop()]
            for name, gate in gates.items():
                soft = torch.sigmoid(gate)
                best = keep_best(bundled(gate.detach(), bundles[name]), len(kept[name]))
                hard = _indicator(len(gate), best)
                masks[name] = hard + soft - soft.detach()
            output = call(scoring.model, inputs)
            loss = data.loss(output * scale.exp() if scale_free else output, target)
            finite(loss, step, "[prune] polish to false")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % EVERY == 0:
                yield {n: bundled(gate.detach().clone(), bundles[n]) for n, gate in gates.items()}


def _scoring(model: nn.Module, data: Data, kept: Mapping[str, Sequence[int]]) -> Scoring:
    """Return a frozen copy of the model with the groups that can have gates."""
    frozen = copy.deepcopy(model).eval()
    found = members(frozen, data.example)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    for module in frozen.modules():
        if isinstance(module, NORMS):
            module.train()
            module.momentum = 0.0  # running statistics are of no use here
    cut = {n: found[n] for n in kept if n in found and 0 < len(kept[n]) < len(found[n][0].indices)}
    readable = {}
    for name, layers in cut.items():
        alone = Scoring(frozen, data, {name: layers}, SAMPLES, criterion="gates")
        try:
            consumers(alone)
        except UsageError:
            continue
        readable[name] = layers
    return Scoring(frozen, data, readable, SAMPLES, criterion="gates")


def _indicator(width: int, chosen: Sequence[int]) -> Tensor:
    found = torch.zeros(width)
    found[list(chosen)] = 1.0
    return found
