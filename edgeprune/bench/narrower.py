"""A dense network of smaller uniform width, brought to a measured cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from edgeprune.allocation.candidates import CANDIDATE, Candidates
from edgeprune.allocation.closed_loop import AIM, GOOD
from edgeprune.errors import FactoryError
from edgeprune.export.segments import read_graph
from edgeprune.job import Job
from edgeprune.loading import call_factory
from edgeprune.records import Narrow

ROUNDS = 7


def build(job: Job, folder: Path, factor: float) -> nn.Module:
    """Return the job's network at `factor` times its width, with fresh weights.

    Raises:
        FactoryError: the factory fails or returns something else.
    """
    factory = job.bench.narrower
    if factory is None:
        raise FactoryError("bench.narrower names no factory", 'narrower = "model:build_narrow"')
    model = call_factory(factory, folder, "bench.narrower", width=factor)
    if not isinstance(model, nn.Module):
        raise FactoryError(
            f"bench.narrower {factory!r} returned a {type(model).__name__}, not a torch.nn.Module"
        )
    return model.eval()


def reach(
    job: Job,
    folder: Path,
    candidates: Candidates,
    target: float,
    note: Callable[[str], None] = lambda _: None,
) -> Narrow:
    """Return the widest network whose measured cost is within `target` of dense, by bisection.

    Raises:
        FactoryError: the factory fails.
    """
    dense = candidates.table.dense_cost
    macs = sum(s.macs for s in read_graph(candidates.folder / "dense.onnx").segments)
    low, high, factor = 0.0, 1.0, target**0.5
    seen: list[Narrow] = []
    for _ in range(ROUNDS):
        cost = candidates.measure_model(build(job, folder, factor)).cost / dense
        graph = read_graph(candidates.folder / CANDIDATE)
        seen.append(
            Narrow(
                factor=factor,
                cost_ratio=cost,
                macs_ratio=sum(s.macs for s in graph.segments) / macs,
            )
        )
        note(f"width x {factor:.3f} costs {100 * cost:.1f} % of dense")
        if GOOD[0] * target <= cost <= GOOD[1] * target:
            break
        low, high = (factor, high) if cost < target else (low, factor)
        scaled = factor * (sum(AIM) / 2 * target / cost) ** 0.5
        factor = scaled if low < scaled < high and len(seen) < 3 else (low + high) / 2
    within = [n for n in seen if n.cost_ratio <= target]
    if not within:
        return min(seen, key=lambda n: n.cost_ratio)
    return max(within, key=lambda n: n.cost_ratio)
