"""A dense network of smaller uniform width, brought to a measured cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from edgeprune.allocation.candidates import CANDIDATE, Candidates
from edgeprune.allocation.closed_loop import AIM, GOOD
from edgeprune.budget import keeps_to
from edgeprune.errors import FactoryError
from edgeprune.export.segments import read_graph
from edgeprune.fingerprint import factory_digest
from edgeprune.job import Job
from edgeprune.loading import call_factory, find_factory
from edgeprune.records import Narrow

ROUNDS = 7
PARTS = 8  # eighths of the width: where kernels work on tiles, they can be cheaper than narrower


def code(job: Job, folder: Path) -> str:
    """Return a hash of what makes the network: the identity of a run does not cover it.

    Raises:
        FactoryError: there is no such factory.
    """
    factory = job.bench.narrower or ""
    find_factory(factory, folder, "bench.narrower")  # imports what is hashed
    return factory_digest(factory)


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
    """Return the widest network found whose measured cost is within `target` of dense.

    First by bisection, as if costs rose with the width. Since stairs make some widths cheaper than
    narrower ones, eighths of the width above what was found are measured too, from wide to narrow,
    until one is within the target.

    Raises:
        FactoryError: the factory fails.
    """
    dense = candidates.table.dense_cost
    macs = sum(s.macs for s in read_graph(candidates.folder / "dense.onnx").segments)
    low, high, factor = 0.0, 1.0, target**0.5
    seen: list[Narrow] = []

    def measured(factor: float) -> float:
        cost = candidates.measure_model(build(job, folder, factor)).cost / dense
        graph = read_graph(candidates.folder / CANDIDATE)
        ratio = sum(s.macs for s in graph.segments) / macs
        seen.append(Narrow(factor=factor, cost_ratio=cost, macs_ratio=ratio))
        note(f"width x {factor:.3f} costs {100 * cost:.1f} % of dense")
        return cost

    for _ in range(ROUNDS):
        cost = measured(factor)
        if GOOD[0] * target <= cost <= GOOD[1] * target:
            break
        low, high = (factor, high) if cost < target else (low, factor)
        scaled = factor * (sum(AIM) / 2 * target / cost) ** 0.5
        factor = scaled if low < scaled < high and len(seen) < 3 else (low + high) / 2
    found = max((n.factor for n in seen if keeps_to(n.cost_ratio, target)), default=0.0)
    for part in range(PARTS - 1, 0, -1):
        if part / PARTS <= found or keeps_to(measured(part / PARTS), target):
            break
    within = [n for n in seen if keeps_to(n.cost_ratio, target)]
    if not within:
        return min(seen, key=lambda n: n.cost_ratio)
    return max(within, key=lambda n: n.factor)
