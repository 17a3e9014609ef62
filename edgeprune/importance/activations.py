"""What the consumers of a group see on calibration data: activations, and gradients of them.

A channel's activation is what the layers that consume it receive, behind BatchNorm, ReLU and
pooling; a flattened layer receives several entries a channel.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.data import call
from edgeprune.errors import UnscoredError
from edgeprune.importance.scoring import Scores, Scoring
from edgeprune.pruning.channels import CONVOLUTIONS, TRANSPOSED, Member
from edgeprune.pruning.recurrent import RECURRENT

Look = Callable[[str, int, Tensor], Tensor | None]


def activation(scoring: Scoring) -> Scores:
    """Mean of abs(a[k]) over calibration samples, positions and consumers."""
    return _mean(scoring, lambda a: a.abs())


def apoz(scoring: Scoring) -> Scores:
    """1 - APoZ: the share of activations that are not zero (arXiv 1607.03250).

    The average percentage of zeros itself is high for channels that do nothing; higher is kept
    here, so the complement is the score.
    """
    return _mean(scoring, lambda a: (a != 0).float())


def _mean(scoring: Scoring, of: Callable[[Tensor], Tensor]) -> Scores:
    total = {n: torch.zeros(w, dtype=torch.float64) for n, w in scoring.widths.items()}
    count = {n: torch.zeros(w, dtype=torch.float64) for n, w in scoring.widths.items()}

    def look(group: str, consumer: int, a: Tensor) -> None:
        present = a.shape[0] * a.shape[1]
        total[group] += of(a).double().sum((0, 1))
        count[group] += present

    with watching(scoring, look), torch.inference_mode():
        for inputs, _ in scoring.batches():
            call(scoring.model, inputs)
    return {name: total[name] / count[name] for name in total}


def consumers(scoring: Scoring) -> dict[str, list[Member]]:
    """Return group -> the layers that consume its channels.

    Raises:
        UnscoredError: a group has none that holds every channel equally often.
    """
    found: dict[str, list[Member]] = {}
    for name, members in scoring.members.items():
        found[name] = [
            m
            for m in members
            if m.side == "in"
            and len({len(at) for at in m.indices}) == 1
            and m.indices[0]
            and _axis(scoring.layers[m.layer]) is not None
        ]
    if stuck := [name for name, members in found.items() if not members]:
        why = "no layer whose input it can read consumes its channels; the group is "
        reasons = {name: f"{why}{scoring.kinds(scoring.members[name])}" for name in stuck}
        raise UnscoredError(scoring.criterion, reasons)
    return found


@contextlib.contextmanager
def watching(scoring: Scoring, look: Look) -> Iterator[None]:
    """Call `look` with every consumer's input while the model runs.

    `look` gets (group, number of the consumer, activations [samples, positions, channels of the
    group]) and may return a tensor of that shape, which then replaces the input.
    """
    hooks: list[Any] = []
    for group, members in consumers(scoring).items():
        for number, member in enumerate(members):
            layer = scoring.layers[member.layer]
            hook = _hook(layer, member, functools.partial(look, group, number))
            hooks.append(layer.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _hook(
    layer: nn.Module, member: Member, look: Callable[[Tensor], Tensor | None]
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
    index = torch.tensor(member.indices)  # [channels, entries]
    axis = _axis(layer) or -1
    samples = 1 if isinstance(layer, RECURRENT) and not layer.batch_first else 0
    whole = index.shape[1] == 1 and torch.equal(index[:, 0], torch.arange(len(index)))

    def hook(_: nn.Module, entered: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x: Tensor = entered[0]
        moved = x.movedim(samples, 0).movedim(axis, -1)
        flat = moved.reshape(len(moved), -1, moved.shape[-1])  # [samples, positions, entries]
        if whole and flat.shape[2] == len(index):  # one entry a channel: nothing to pick
            replaced = look(flat)
            if replaced is None:
                return None
            restored = replaced.reshape(moved.shape).movedim(-1, axis)
            return (restored.movedim(0, samples), *entered[1:])
        picked = flat[..., index.flatten()].unflatten(-1, tuple(index.shape))
        a = picked.transpose(2, 3).flatten(1, 2)  # [samples, positions * entries a channel, width]
        changed = look(a)
        if changed is None:
            return None
        back = changed.unflatten(1, (flat.shape[1], index.shape[1])).transpose(2, 3).flatten(2)
        flat = flat.index_copy(2, index.flatten(), back)
        restored = flat.reshape(moved.shape).movedim(-1, axis)
        return (restored.movedim(0, samples), *entered[1:])

    return hook


def _axis(layer: nn.Module) -> int | None:
    """Return the axis of the input that holds channels; None if the layer is of another kind."""
    if isinstance(layer, CONVOLUTIONS + TRANSPOSED):
        return 1
    return -1 if isinstance(layer, (nn.Linear, *RECURRENT)) else None
