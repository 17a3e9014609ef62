"""Networks with fresh weights: the baselines that are trained from scratch.

The weights are those that the job's factory makes under the seed, special initialisations and
parameters of the model's own included. A factory may fix its own seed, though, or bring trained
weights: layers that are the same under two seeds, and not merely filled with one value (as
BatchNorm is), are drawn anew by torch's own `reset_parameters`, and so is nn.MultiheadAttention.
What torch does not know how to draw, as a position embedding, then stays as the factory made it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.bench import narrower
from edgeprune.job import Job
from edgeprune.loading import initial_state, seed_everything
from edgeprune.pruning.shrink import shrink
from edgeprune.pruning.tracing import unfreeze
from edgeprune.records import WidthPlan
from edgeprune.recovery.schedules import rewind
from edgeprune.seeds import SEEDS


def scratch(
    job: Job,
    folder: Path,
    dense: nn.Module,
    inputs: tuple[Tensor, ...],
    plan: WidthPlan,
    *,
    seed: int,
) -> nn.Module:
    """Return the dense model cut as planned, with none of its trained weights.

    What the seed draws is cut from a whole fresh network; what torch draws anew is drawn for the
    widths of the cut one.

    Raises:
        FactoryError: the factory fails.
        WeightsError: what it makes does not fit the dense model.
    """
    with _same_draws():
        first, other = (
            initial_state(job.with_overrides(seed=one), folder) for one in (seed, _next(seed))
        )
    fresh = shrink(rewind(dense, inputs, {}, first), inputs, plan)
    return redrawn(fresh, first, other, seed)


def narrow(job: Job, folder: Path, factor: float, *, seed: int) -> nn.Module:
    """Return the job's network at `factor` times its width, with fresh weights.

    Raises:
        FactoryError: the factory fails or returns something else.
    """
    with _same_draws():
        seed_everything(seed)
        fresh = narrower.build(job, folder, factor)
        first = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
        seed_everything(_next(seed))
        other = narrower.build(job, folder, factor).state_dict()
    return redrawn(fresh, first, other, seed)


def redrawn(
    model: nn.Module, first: Mapping[str, Tensor], other: Mapping[str, Tensor], seed: int
) -> nn.Module:
    """Draw the layers of `model` anew that the factory's seed does not reach; nothing stays frozen.

    Args:
        model: is changed; its modules have the names of the factory's.
        first: state that the factory makes under `seed`.
        other: state that it makes under another one.
        seed: of what is drawn.
    """
    floats = {name for name, tensor in first.items() if tensor.is_floating_point()}
    fixed = {name for name in floats if name in other and torch.equal(first[name], other[name])}
    telling = {name for name in fixed if not _filled(first[name])}

    def unreached(path: str, module: nn.Module) -> bool:
        own = {f"{path}.{key}".lstrip(".") for key in module.state_dict()} & floats
        return own <= fixed and not own.isdisjoint(telling)

    found = [module for path, module in model.named_modules() if unreached(path, module)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in found:
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        for module in found:  # behind their inner layers, whose biases they set
            if isinstance(module, nn.MultiheadAttention):
                module._reset_parameters()
    unfreeze(model)  # what was frozen for its trained weights has none now
    return model


def _filled(tensor: Tensor) -> bool:
    """Return whether all of several values are one: zeros, ones, no draw and no training."""
    return tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())


def _next(seed: int) -> int:
    return (seed + 1) % SEEDS


@contextmanager
def _same_draws() -> Iterator[None]:
    """Leave the generators of Python, numpy and torch as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
