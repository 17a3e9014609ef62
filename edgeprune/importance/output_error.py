"""What the consumers of a group would miss of it: greedy by the error of their outputs.

ThiNet (arXiv 1707.06342) keeps the channels with which the next layer's output is closest to what
it was. Here the error is that of the outputs less their mean, which BatchNorm recalibration
restores, and each output counts as much as the loss depends on it:

    E(R) = sum over c, d in R of K[c,d]
    K[c,d] = P / 2 * sum over outputs o of  E[g_o^2] * Cov(u_oc, u_od)

R are the removed channels, u_oc what channel c adds to output o at a position, P the number of
positions, and g_o the derivative of a sample's loss by output o at a position: the diagonal of the
Fisher information in the outputs, so that E is a rise of the loss to second order. Since K knows
which channels say the same, they are removed one by one, each time the one that adds least to E.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.data import call
from edgeprune.errors import UsageError
from edgeprune.importance.activations import consumers
from edgeprune.importance.scoring import BATCH, Scores, Scoring
from edgeprune.pruning.channels import Member
from edgeprune.recovery.reconstruction import by_position, obstacle, patches

ROWS = 40  # positions for each weight of an output, at most


def output_error(scoring: Scoring) -> Scores:
    """Rise of E when a channel is removed greedily, after all that matter less.

    Raises:
        UsageError: no consumer of a group is a convolution without groups or a linear layer.
    """
    readable = {
        name: [m for m in members if not obstacle(scoring.layers[m.layer])]
        for name, members in consumers(scoring).items()
    }
    for name, members in readable.items():
        if not members:
            raise UsageError(
                f"importance {scoring.criterion} cannot score group {name}: none of its consumers "
                f"is a convolution without groups or a linear layer: "
                f"{scoring.kinds(scoring.members[name])}",
                "keep the layer with [prune] keep, or take another criterion: edgeprune methods",
            )
    wanted = {member.layer for members in readable.values() for member in members}
    seen = {name: _Seen(scoring.layers[name]) for name in wanted}
    batches = math.ceil(scoring.samples / BATCH)
    samples = 0
    with _watching(seen, batches, scoring.generator()):
        for inputs, target in scoring.batches(labels=True):
            loss = scoring.data.loss(call(scoring.model, inputs), target) * len(target)
            if loss.requires_grad:
                loss.backward()
            scoring.model.zero_grad(set_to_none=True)
            samples += len(target)
    found: Scores = {}
    for name, members in readable.items():
        parts = [_between(seen[m.layer].coupling(samples), seen[m.layer].layer, m) for m in members]
        found[name] = removal_order(torch.stack(parts).sum(0))
    return found


def removal_order(coupling: Tensor) -> Tensor:
    """Return how much E rises when each channel is removed greedily [width], never falling.

    Args:
        coupling: K [width, width].
    """
    width, last = len(coupling), -math.inf
    left, scores = torch.ones(width, dtype=torch.bool), torch.zeros(width)
    cross = torch.zeros_like(coupling[0])
    for _ in range(width):
        rise = (coupling.diagonal() + 2 * cross).masked_fill(~left, math.inf)
        channel = int(rise.argmin())
        value = float(rise[channel].float())
        if value <= last:  # float32 must still tell the order
            value = float(torch.nextafter(torch.tensor(last), torch.tensor(math.inf)))
        scores[channel], last = value, value
        left[channel] = False
        cross += coupling[channel]
    return scores


@dataclass
class _Seen:
    """Sums over what one consumer received, and over the squared gradients of its outputs."""

    layer: nn.Module
    gram: Tensor | None = None
    total: Tensor | None = None
    rows: int = 0
    squares: Tensor | None = None

    def inputs(self, x: Tensor, most: int, generator: torch.Generator) -> None:
        rows = patches(self.layer, x)
        if len(rows) > most:
            rows = rows[torch.randperm(len(rows), generator=generator)[:most]]
        gram, total = (rows.T @ rows).double(), rows.double().sum(0)
        self.gram = gram if self.gram is None else self.gram + gram
        self.total = total if self.total is None else self.total + total
        self.rows += len(rows)

    def gradients(self, g: Tensor) -> None:
        found = by_position(g, self.layer, None).double().square().sum(0)
        self.squares = found if self.squares is None else self.squares + found

    def coupling(self, samples: int) -> Tensor:
        """Return K [inputs, inputs] of the layer's weights, one entry a weight of an output."""
        weight: Any = self.layer.weight
        flat = weight.detach().flatten(1).double()
        if self.gram is None or self.total is None or self.squares is None:
            return torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64)
        mean = self.total / self.rows
        covariance = self.gram / self.rows - torch.outer(mean, mean)
        # P * E[g^2] is the sum over positions, averaged over samples
        coupling: Tensor = covariance * (flat.T @ (flat * (self.squares / samples / 2)[:, None]))
        return coupling


@contextlib.contextmanager
def _watching(seen: dict[str, _Seen], batches: int, generator: torch.Generator) -> Iterator[None]:
    """Add what each layer receives, and what flows back to its output, to its sums."""

    def watch(layer: _Seen) -> Any:
        size = layer.layer.weight[0].numel()  # type: ignore[index]

        def hook(_: nn.Module, entered: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.no_grad():
                layer.inputs(entered[0].detach(), ROWS * size // batches + 1, generator)
            if output.requires_grad:
                output.register_hook(layer.gradients)

        return layer.layer.register_forward_hook(hook)

    handles = [watch(layer) for layer in seen.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _between(coupling: Tensor, layer: nn.Module, member: Member) -> Tensor:
    """Return K [width, width]: entries of the layer's weights summed into channels."""
    weight: Any = layer.weight
    kernel = weight[0, 0].numel()
    places = torch.tensor(member.indices)[..., None] * kernel + torch.arange(kernel)
    width, each = len(places), places[0].numel()
    chosen = coupling[places.flatten()][:, places.flatten()]
    return chosen.reshape(width, each, width, each).sum((1, 3))
