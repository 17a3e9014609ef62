"""What every criterion works on: a copy of the model, its groups, and bounded calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgeprune.data import Data, batches, call, has_labels, require_finite
from edgeprune.errors import DataError, UnscoredError
from edgeprune.pruning.channels import Member, rows
from edgeprune.sections import FusedSection

BATCH = 32  # calibration batches are split into at most this many samples: bounds the memory
PROBES = 32  # Hutchinson's: several a batch where there are fewer batches
Scores = dict[str, Tensor]
Pair = tuple[tuple[Tensor, ...], Tensor]


@dataclass(frozen=True)
class Scoring:
    """One scoring of a model.

    Args:
        model: a copy of the dense model in eval mode, with nothing frozen; a criterion may change
            it and its gradients.
        data: calibration batches and the loss.
        members: group -> its layers.
        samples: at most this many calibration samples are looked at.
        seed: of whatever is drawn.
        fused: settings of the fused importance.
        probes: of Hutchinson's traces, at least.
        criterion: name, for messages.
    """

    model: nn.Module
    data: Data
    members: Mapping[str, tuple[Member, ...]]
    samples: int
    seed: int = 0
    fused: FusedSection = field(default_factory=FusedSection)
    probes: int = PROBES
    criterion: str = ""

    layers: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", dict(self.model.named_modules()))

    @property
    def widths(self) -> dict[str, int]:
        """Group -> number of its channels."""
        return {name: len(members[0].indices) for name, members in self.members.items()}

    def generator(self) -> torch.Generator:
        """Return a generator at the seed."""
        return torch.Generator().manual_seed(self.seed)

    def batches(self, *, labels: bool = False, limit: int | None = None) -> Iterator[Pair]:
        """Yield at most `samples` calibration samples in batches of at most 32.

        Args:
            labels: whether the targets will be used.
            limit: at most this many batches.

        Raises:
            DataError: there is no batch, or `labels` is asked for and a batch has none.
        """
        left, count = self.samples, 0
        for index, (inputs, target) in enumerate(batches(self.data.calibration, "calibration")):
            if labels and not has_labels(inputs, target):
                raise DataError(
                    f"importance {self.criterion} needs labels, and batch {index} of calibration "
                    f"has none (its target has shape {tuple(target.shape)})",
                    "give labels, or take a criterion that needs none: edgeprune methods",
                )
            for start in range(0, min(len(inputs[0]), left), BATCH):
                stop = min(start + BATCH, left)
                labelled = target[start:stop] if target.ndim else target
                yield tuple(x[start:stop] for x in inputs), labelled
                count += 1
                if limit is not None and count >= limit:
                    return
            left -= len(inputs[0])
            if left <= 0:
                return
        if not count:
            raise DataError("data: calibration is empty or can be iterated only once")

    def loss(self, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Return the mean loss of a batch, differentiable.

        Raises:
            UserFunctionError: it is not finite.
        """
        loss = self.data.loss(call(self.model, inputs), target)
        require_finite(loss.detach(), len(target))
        return loss

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that take part in differentiation, by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """Return all parameters, detached, by name."""
        return {n: p.detach() for n, p in self.model.named_parameters()}

    def rows(self, member: Member, values: Mapping[str, Tensor]) -> Tensor | None:
        """Return [channels of the layer, n]: the entries of `values` that belong to each channel.

        Args:
            member: the layer and its side.
            values: full parameter name -> tensor of its shape.
        """
        prefix = f"{member.layer}." if member.layer else ""
        return rows(self.layers[member.layer], member.side, lambda n: values.get(prefix + n))

    def sums(self, values: Mapping[str, Tensor], side: str | None = None) -> Scores:
        """Return group -> sum of `values` over the weights of each channel [width].

        Args:
            values: full parameter name -> tensor of its shape, such as abs(weight).
            side: only layers on this side ("out" or "in") of the group.

        Raises:
            UnscoredError: a group has no layer that this function can read.
        """
        result: Scores = {}
        for name, members in self.members.items():
            total = torch.zeros(len(members[0].indices), dtype=torch.float64)
            counted = False
            for member in members:
                if side is not None and member.side != side:
                    continue
                found = self.rows(member, values)
                if found is None:
                    continue
                counted = True
                gather(found.sum(1).double(), member, total)
            if not counted and side is None:
                why = f"it reads no weights of {self.kinds(members)}"
                raise UnscoredError(self.criterion, {name: why})
            result[name] = total
        return result

    def kinds(self, members: Sequence[Member]) -> str:
        """Return "layer (type), ..." of some members, for messages."""
        return ", ".join(f"{m.layer} ({type(self.layers[m.layer]).__name__})" for m in members)


def gather(values: Tensor, member: Member, total: Tensor) -> None:
    """Add values [channels of the layer] to total [channels of the group], in place."""
    owner = [k for k, at in enumerate(member.indices) for _ in at]
    index = [i for at in member.indices for i in at]
    total.index_add_(0, torch.tensor(owner, dtype=torch.long), values[index])
