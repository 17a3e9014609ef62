"""Synaptic flow: no data, only the product of weights along all paths."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgeprune.data import call
from edgeprune.errors import UsageError
from edgeprune.importance.scoring import Scores, Scoring
from edgeprune.pruning.channels import zero
from edgeprune.recovery.batchnorm import NORMS

ROUNDS = 10
SMALL = 2.0**-30  # size of the input: so small that no ReLU6 saturates


def synflow(scoring: Scoring) -> Scores:
    """Share of R that flows through channel k, mean over rounds: sum of abs(w) * dR/dabs(w) / R.

    R is the sum of the outputs of the network with absolute weights for an input of ones: the sum
    over all paths of the product of their weights (arXiv 2006.05467). BatchNorm becomes its factor
    gamma / sqrt(var + eps), biases 0. After each of the 10 rounds the weakest tenth of each group
    is zeroed and the flow taken again; a channel that is gone adds nothing to its score.

    Raises:
        UsageError: nothing flows, or the flow is not finite.
    """
    model = _linearise(scoring)
    flow = Scoring(
        model, scoring.data, scoring.members, scoring.samples, criterion=scoring.criterion
    )
    alive = {name: torch.ones(width, dtype=torch.bool) for name, width in scoring.widths.items()}
    total = {name: torch.zeros(width, dtype=torch.float64) for name, width in flow.widths.items()}
    for done in range(1, ROUNDS + 1):
        shares = _shares(flow)
        for name, share in shares.items():
            total[name] += torch.where(alive[name], share, 0.0) / ROUNDS
        if done < ROUNDS:
            _remove_weakest(flow, shares, alive, done)
    return total


def _shares(flow: Scoring) -> Scores:
    inputs = tuple(
        torch.full(x.shape, SMALL, dtype=torch.float64)[:1] if x.is_floating_point() else x[:1]
        for x in flow.data.example
    )
    parameters = flow.parameters()
    total = call(flow.model, inputs).sum()
    reached = float(total.detach())
    if not math.isfinite(reached) or reached == 0.0:
        raise UsageError(
            f"importance synflow: the flow through the network is {reached}",
            "take another criterion: edgeprune methods lists them",
        )
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters.items(), found, strict=True)
    shares = {n: p.detach() * g / reached for (n, p), g in pairs if g is not None}
    return flow.sums(shares)


def _remove_weakest(flow: Scoring, shares: Scores, alive: dict[str, Tensor], done: int) -> None:
    """Zero channels until done / ROUNDS of each group is gone; one always stays."""
    for name, share in shares.items():
        width = len(share)
        goal = min(width - 1, width * done // ROUNDS)
        order = torch.where(alive[name], share, -1.0).argsort(stable=True)
        gone = order[:goal]
        alive[name][gone] = False
        for member in flow.members[name]:
            entries = [i for k in gone.tolist() for i in member.indices[k]]
            zero(flow.layers[member.layer], member.side, entries)


def _linearise(scoring: Scoring) -> nn.Module:
    """Turn the scored copy into its network of absolute weights, in double precision."""
    model = scoring.model.double()
    with torch.no_grad():
        for module in model.modules():
            mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(module, NORMS) and mean is not None and var is not None:
                scale = (var + module.eps).rsqrt()
                if module.affine:
                    module.weight.mul_(scale)
                    scale = torch.ones_like(scale)
                mean.zero_()
                var.copy_(scale.square().reciprocal() - module.eps)
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2].startswith("bias"):
                parameter.zero_()
            else:
                parameter.abs_()
    return model
