"""Second moments of what the consumers of a group receive, and of the gradients of their outputs.

Both criteria that look at the consumers' outputs, `output_error` and `refit_error`, are functions
of these sums.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import UnscoredError
from edgeprune.importance.activations import consumers
from edgeprune.importance.scoring import BATCH, Scoring
from edgeprune.pruning.channels import Member
from edgeprune.recovery.positions import by_position, patches
from edgeprune.recovery.reconstruction import obstacle

ROWS = 40  # positions for each weight of an output, at most


@dataclass
class ConsumerSums:
    """Sums over what one consumer received, and over the squared gradients of its outputs."""

    layer: nn.Module
    gram: Tensor | None = None
    total: Tensor | None = None
    rows: int = 0
    squares: Tensor | None = None
    samples: int = 0

    def inputs(self, x: Tensor, most: int, generator: torch.Generator) -> None:
        """Take in what the layer received, at `most` positions drawn from all."""
        rows = patches(self.layer, x)
        if len(rows) > most:
            rows = rows[torch.randperm(len(rows), generator=generator)[:most]]
        gram, total = (rows.T @ rows).double(), rows.double().sum(0)
        self.gram = gram if self.gram is None else self.gram + gram
        self.total = total if self.total is None else self.total + total
        self.rows += len(rows)

    def gradients(self, g: Tensor) -> None:
        """Take in the derivative of the summed loss of a batch by the layer's output."""
        found = by_position(g, self.layer, None).double().square().sum(0)
        self.squares = found if self.squares is None else self.squares + found

    @property
    def weight(self) -> Tensor:
        """The layer's weights [outputs, inputs], an input being one entry of a patch."""
        weight: Any = self.layer.weight
        flat: Tensor = weight.detach().flatten(1).double()
        return flat

    @property
    def covariance(self) -> Tensor:
        """Covariance of the inputs over positions [inputs, inputs]; 0 where nothing was seen."""
        if self.gram is None or self.total is None:
            return torch.zeros(2 * self.weight.shape[1:], dtype=torch.float64)
        mean = self.total / self.rows
        return self.gram / self.rows - torch.outer(mean, mean)

    @property
    def power(self) -> float:
        """Mean square of the inputs; 0 where nothing was seen."""
        return 0.0 if self.gram is None else float(self.gram.diagonal().mean()) / self.rows

    @property
    def fisher(self) -> Tensor:
        """P / 2 * E[g_o^2] of each output o [outputs], P the number of positions."""
        if self.squares is None:
            return torch.zeros(self.weight.shape[0], dtype=torch.float64)
        found: Tensor = self.squares / self.samples / 2  # summed over positions, mean of samples
        return found

    def places(self, member: Member) -> Tensor:
        """Return [width, inputs of a channel]: the inputs that each channel of a group feeds."""
        weight: Any = self.layer.weight
        kernel = weight[0, 0].numel()
        index = torch.tensor(member.indices)[..., None] * kernel + torch.arange(kernel)
        found: Tensor = index.flatten(1)
        return found


def consumer_sums(scoring: Scoring) -> dict[str, list[tuple[ConsumerSums, Tensor]]]:
    """Return group -> its consumers that can be read, and the inputs of each channel.

    Raises:
        UnscoredError: no consumer of a group is a convolution without groups or a linear layer.
        DataError: there are no calibration batches, or no labels.
    """
    readable = {
        name: [m for m in members if not obstacle(scoring.layers[m.layer])]
        for name, members in consumers(scoring).items()
    }
    if stuck := [name for name, members in readable.items() if not members]:
        every = consumers(scoring)
        why = {
            name: "; ".join(f"{m.layer}: {obstacle(scoring.layers[m.layer])}" for m in every[name])
            for name in stuck
        }
        reads = "it reads consumers that are linear layers or convolutions without groups"
        raise UnscoredError(scoring.criterion, {n: f"{reads}; {w}" for n, w in why.items()})
    wanted = {member.layer for members in readable.values() for member in members}
    sums = {name: ConsumerSums(scoring.layers[name]) for name in wanted}
    batches = math.ceil(scoring.samples / BATCH)
    with _watching(sums, batches, scoring.generator()):
        for inputs, target in scoring.batches(labels=True):
            loss = scoring.loss(inputs, target) * len(target)
            if loss.requires_grad:
                loss.backward()
            scoring.model.zero_grad(set_to_none=True)
            for one in sums.values():
                one.samples += len(target)
    return {
        name: [(sums[m.layer], sums[m.layer].places(m)) for m in members]
        for name, members in readable.items()
    }


@contextlib.contextmanager
def _watching(
    sums: dict[str, ConsumerSums], batches: int, generator: torch.Generator
) -> Iterator[None]:
    """Add what each layer receives, and what flows back to its output, to its sums."""

    def watch(one: ConsumerSums) -> Any:
        size = one.layer.weight[0].numel()  # type: ignore[index]

        def hook(_: nn.Module, entered: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.no_grad():
                one.inputs(entered[0].detach(), ROWS * size // batches + 1, generator)
            if output.requires_grad:
                output.register_hook(one.gradients)

        return one.layer.register_forward_hook(hook)

    handles = [watch(one) for one in sums.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
