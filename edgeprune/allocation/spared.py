"""What goes with a branch that is removed besides the layers that have its groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from edgeprune.allocation.problem import Spared
from edgeprune.export.segments import Graph, Segment


def spared_layers(graph: Graph) -> dict[str, Spared]:
    """Return layer -> the layers without which it does not run.

    Such as a LayerNorm before the branch, the softmax of its attention, and the addition behind it.
    """
    behind, made = passed_through(graph), _makers(graph)
    return {s.name: (*_of_sum(s, made), *_named(behind[s.name])) for s in graph.segments}


def spared_output(
    segment: Segment,
    made: Mapping[str, Segment],
    behind: Mapping[str, Sequence[str]],
    alive: Collection[str],
) -> Spared:
    """Return with which layers the output of `segment` is spared in a step.

    It is where the layer that gives it is removed, or one that it is for alone; and where it is a
    sum, one operand of which is removed: then it is the other, which is `alive` and counts already.

    Args:
        segment: gives the output.
        made: tensor -> the layer that gives it.
        behind: see `passed_through`.
        alive: tensors in memory in that step.
    """
    own, *later = _named(behind[segment.name])
    if segment.addends:  # the addition is fused behind the layer that ends the branch
        last = segment.nodes[-1]
        others = [name for name in last.input if name in segment.addends]
        if last.op_type == "Add" and len(others) == 1 and others[0] in alive:
            return ((segment.name, _name(made, others[0])), *later)
        return tuple(later)
    if segment.operator == "Add" and len(segment.inputs) == 2:
        pairs = (segment.inputs, segment.inputs[::-1])
        sums = tuple((_name(made, g), _name(made, kept)) for g, kept in pairs if kept in alive)
        return (*sums, *later)
    return (own, *later)


def passed_through(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return layer -> itself, and the layers on every way from it to an output, nearest first.

    In terms of graphs: its post-dominators (Lengauer and Tarjan 1979). Who is only added to what a
    layer gives goes around that layer, though not around what follows it.
    """
    found: dict[str, tuple[str, ...]] = {}
    ways: dict[str, list[tuple[str, ...]]] = {name: [()] for name in graph.outputs}
    for segment in reversed(graph.segments):
        own = [way for n in segment.nodes for name in n.output for way in ways.get(name, ())]
        nearest = min(own, key=len, default=())
        later = tuple(name for name in nearest if all(name in way for way in own))
        found[segment.name] = segment.name, *later
        for names, way in ((segment.inputs, found[segment.name]), (segment.addends, later)):
            for name in names:
                ways.setdefault(name, []).append(way)
    return found


def _of_sum(segment: Segment, made: Mapping[str, Segment]) -> Spared:
    """Return, for an addition that runs by itself, without which operand it has nothing to add."""
    if segment.operator != "Add" or len(segment.nodes) > 1:
        return ()
    first, second = (_name(made, name) for name in (segment.inputs * 2)[:2])
    return ((first, second), (second, first)) if first != second else ()


def _named(layers: Iterable[str]) -> Spared:
    return tuple((name, "") for name in layers)


def _makers(graph: Graph) -> dict[str, Segment]:
    return {segment.output: segment for segment in graph.segments}


def _name(made: Mapping[str, Segment], tensor: str) -> str:
    return made[tensor].name if tensor in made else ""
