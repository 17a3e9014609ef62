"""What the trace of a GPU means: which times are its own, and whether it did the work at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeprune.devices.protocol import ModelAnswer, NodeCosts
from edgeprune.errors import DeviceError

CPU, WEBGPU = "CPUExecutionProvider", "WebGpuExecutionProvider"
HEAVY = frozenset({"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})  # fmt: skip  # noqa: E501


def require_placement(nodes: Iterable[NodeCosts], provider: str) -> None:
    """Make sure that no heavy node of a session on `provider` runs on the CPU.

    Raises:
        DeviceError: one does.
    """
    for node in nodes:
        if node.operator in HEAVY and node.provider == CPU != provider:
            raise DeviceError(f"node {node.name} ({node.operator}) runs on the CPU")


def with_gpu_times(answer: ModelAnswer) -> ModelAnswer:
    """Return the answer with WebGPU's nodes given the times of their programs.

    The times of the nodes themselves are those of the dispatch. Programs are `Api` events called
    `<node>&<operator>&<program>`, in the order they ran in, from the first warm-up run on. A node
    without any is a change of view. What a node runs only once, in its first run, is left out. When
    a node starts is not known on the clock of the GPU, so no node keeps its start.

    Raises:
        DeviceError: the adapter has no time stamps, or programs belong to no node.
    """
    if not any(node.provider == WEBGPU for node in answer.nodes):
        return answer
    if not answer.programs and any(node.operator in HEAVY for node in answer.nodes):
        raise DeviceError("the GPU reports no times of its own (no time-stamp queries)")
    runs = answer.warmup + len(answer.runs)
    spent: dict[str, list[float]] = {}
    for name, durations in answer.programs.items():
        spent.setdefault(name, []).extend(durations)
    found: list[NodeCosts] = []
    seen: set[str] = set()
    for node in answer.nodes:
        if node.provider != WEBGPU:
            found.append(node.model_copy(update={"starts": ()}))
        elif node.name not in seen:  # the programs of a namesake are counted with it
            seen.add(node.name)
            values = _by_run(spent.get(node.name, []), runs)[answer.warmup :]
            found.append(node.model_copy(update={"values": tuple(values), "starts": ()}))
    if stray := set(spent) - seen:
        raise DeviceError(f"programs of no node: {', '.join(sorted(stray))}")
    return answer.model_copy(update={"nodes": tuple(found)})


def _by_run(spent: Sequence[float], runs: int) -> list[float]:
    each = len(spent) // runs
    if not each:
        return [0.0] * runs
    first = len(spent) - each * runs
    return [sum(spent[start : start + each]) for start in range(first, len(spent), each)]
