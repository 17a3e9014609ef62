"""One block of memory for all activations: who lies where, planned from lifetimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeprune.export.integer_operators import Addition, Alias, IntegerGraph, Lookup
from edgeprune.records import Lifetime

ALIGNMENT = 4  # bytes; kernels read activations word by word


@dataclass(frozen=True)
class Buffer:
    """Memory needed from step `first` to step `last`, both included."""

    name: str
    bytes: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Both are alive in some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Where each buffer lies: (buffer, offset), in the order given."""

    placed: tuple[tuple[Buffer, int], ...]

    @property
    def bytes(self) -> int:
        """Size of the arena."""
        return max((offset + buffer.bytes for buffer, offset in self.placed), default=0)


def liveness(buffers: Sequence[Buffer]) -> int:
    """Return the largest sum of bytes alive in one step: no plan can be smaller."""
    steps = {buffer.first for buffer in buffers}  # the sum only grows where a life begins
    return max(
        (sum(b.bytes for b in buffers if b.first <= step <= b.last) for step in steps), default=0
    )


def plan(buffers: Sequence[Buffer]) -> Plan:
    """Place `buffers` so that no two that meet overlap.

    Greedy: in some order, each takes the lowest free place (Pisarchyk and Lee, arXiv 2001.03288,
    order by size). Where that misses the bound of `liveness`, other orders are tried, and the
    smallest arena wins.
    """
    bound = liveness(buffers)
    orders: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
        lambda b: (-b.bytes, b.first),
        lambda b: (-b.bytes * (b.last - b.first + 1), b.first),
        lambda b: (-(b.last - b.first), -b.bytes, b.first),
        lambda b: (b.first, -b.bytes),
        lambda b: (-b.last, -b.bytes),
    )
    best: Plan | None = None
    for order in orders:
        found = _greedy(buffers, order)
        if best is None or found.bytes < best.bytes:
            best = found
        if best.bytes == bound:
            break
    return best or Plan(())


def _greedy(buffers: Sequence[Buffer], order: Callable[[Buffer], tuple[int, ...]]) -> Plan:
    offsets: dict[str, int] = {}
    done: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (*order(b), b.name)):
        offset = 0
        for other in sorted(filter(buffer.meets, done), key=lambda b: offsets[b.name]):
            if offset + buffer.bytes <= offsets[other.name]:
                break
            offset = max(offset, offsets[other.name] + other.bytes)
        offsets[buffer.name] = offset
        done.append(buffer)
    return Plan(tuple((buffer, offsets[buffer.name]) for buffer in buffers))


@dataclass(frozen=True)
class Memory:
    """The arena of one network: tensor -> offset.

    `owner` maps a tensor to the one whose bytes it is: a reshaped tensor to its source. `members`
    are the tensors that share the bytes of each of `lifetimes`, one after the other.
    """

    offsets: dict[str, int]
    owner: dict[str, str]
    lifetimes: tuple[Lifetime, ...]
    members: tuple[tuple[str, ...], ...]
    arena_bytes: int
    liveness_bytes: int


def plan_memory(graph: IntegerGraph) -> Memory:
    """Plan the activations of `graph`; step i is operator i, aliases not counted.

    Reshaped tensors share the bytes of their source. An addition or a look-up writes over an
    operand that nothing reads later, except over the network's input, which belongs to the caller,
    and except where it writes the network's output, which may go elsewhere.
    """
    steps = [operator for operator in graph.operators if not isinstance(operator, Alias)]
    owner = {name: name for name in graph.tensors}
    for operator in graph.operators:
        if isinstance(operator, Alias):
            owner[operator.output] = owner[operator.inputs[0]]
    first, last = {owner[graph.input]: 0}, {owner[graph.input]: 0}
    for step, operator in enumerate(steps):
        for name in operator.inputs:
            last[owner[name]] = step
        first[owner[operator.output]] = last[owner[operator.output]] = step
    result = owner[graph.output]
    last[result] = max(len(steps) - 1, 0)
    caller = {owner[graph.input], result}
    shared = {name: name for name in first}
    for step, operator in enumerate(steps):
        target = owner[operator.output]
        if not isinstance(operator, Addition | Lookup) or target in caller:
            continue
        for name in operator.inputs:
            source = owner[name]
            if source not in caller and last[source] == step:
                shared[target] = shared[source]
                break
    names = {
        host: [name for name in first if shared[name] == host]
        for host in dict.fromkeys(shared.values())
    }
    buffers = [
        Buffer(
            " + ".join(group),
            max(_aligned(graph.tensors[name].bytes) for name in group),
            min(first[name] for name in group),
            max(last[name] for name in group),
        )
        for group in names.values()
    ]
    found = plan(buffers)
    places = {
        name: offset
        for (_, offset), group in zip(found.placed, names.values(), strict=True)
        for name in group
    }
    lifetimes = tuple(
        Lifetime(tensor=b.name, bytes=b.bytes, offset=offset, first=b.first, last=b.last)
        for b, offset in found.placed
    )
    offsets = {name: places[owner[name]] for name in graph.tensors if owner[name] in places}
    members = tuple(map(tuple, names.values()))
    return Memory(offsets, owner, lifetimes, members, found.bytes, liveness(buffers))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
