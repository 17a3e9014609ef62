"""What goes with a branch that is removed besides the layers that have its groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.allocation.problem import Spared
from edgeprune.export.integer_operators import IntegerGraph
from edgeprune.export.segments import ANCHORS, HOSTS, Graph, Segment, Shape
from edgeprune.records import ResidualBlock


@dataclass(frozen=True)
class Step:
    """What runs as one: the tensors it reads and writes; to `adds` it adds what it computes."""

    name: str
    reads: Sequence[str]
    writes: Sequence[str]
    adds: Sequence[str] = ()


def spared_layers(graph: Graph) -> dict[str, Spared]:
    """Return layer -> the layers without which it does not run.

    Such as a LayerNorm before the branch, the softmax of its attention, and the addition behind it.
    """
    behind, made, layers = layers_behind(graph), _makers(graph), torch_layers(graph)
    return {
        s.name: (*_of_sum(s, made), *named(layers[name] for name in behind[s.name]))
        for s in graph.segments
    }


def layers_gone(graph: Graph, blocks: Sequence[ResidualBlock]) -> tuple[str, ...]:
    """Return the layers of `graph` that do not run without `blocks`.

    Those that no output needs: a removed layer passes on what is added to it alone, and a sum of
    which one operand is gone is the other one.
    """
    removed, layers = {name for block in blocks for name in block.layers}, torch_layers(graph)
    dead: set[str] = set()
    for segment in graph.segments:
        reads = {*segment.addends}
        if layers[segment.name] not in removed:
            reads |= {*segment.inputs}
        if reads <= dead and (reads or layers[segment.name] in removed):
            dead.update(name for node in segment.nodes for name in node.output)
    needed, gone = {*graph.outputs}, []
    for segment in reversed(graph.segments):
        reads = {*segment.inputs, *segment.addends} - dead
        runs = bool(needed & {name for node in segment.nodes for name in node.output})
        if layers[segment.name] in removed:
            reads, kept = {*segment.addends}, False
        else:
            kept = not (segment.operator == "Add" and {*segment.inputs} & dead)
        if runs:
            needed |= reads
        if not (runs and kept):
            gone.append(segment.name)
    return tuple(reversed(gone))


def alike(dense: Graph, slim: Graph, gone: Collection[str]) -> bool:
    """Tell whether `slim` has the weighted layers of `dense` without those `gone`, of their shapes.

    Where branches are removed that restored the shape of a sum, what follows runs at another.
    """
    left = [segment for segment in dense.segments if segment.name not in gone]
    return _weighted(left) == _weighted(slim.segments)


def _weighted(segments: Iterable[Segment]) -> list[tuple[str, Shape]]:
    return [(s.operator, s.output_shape) for s in segments if s.operator in ANCHORS]


def layers_behind(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return layer -> itself, and the layers on every way from it to an output."""
    steps = [
        Step(s.name, s.inputs, [name for node in s.nodes for name in node.output], s.addends)
        for s in graph.segments
    ]
    return _passed_through(steps, graph.outputs)


def operators_behind(graph: IntegerGraph) -> dict[str, tuple[str, ...]]:
    """Return tensor -> the layer that gives it, and those on every way from it to the output."""
    layers = {op.output: op.layer for op in graph.operators}
    steps = [Step(op.output, op.inputs, (op.output,)) for op in graph.operators]
    found = _passed_through(steps, (graph.output,))
    return {tensor: tuple(layers[name] for name in names) for tensor, names in found.items()}


def spared_output(
    graph: Graph,
    segment: Segment,
    behind: Mapping[str, Sequence[str]],
    alive: Collection[str],
) -> Spared:
    """Return with which layers the output of `segment` is spared in a step.

    It is where the layer that gives it is removed, or one that it is for alone; and where it is a
    sum, one operand of which is removed: then it is the other, which is `alive` and counts already.

    Args:
        graph: the model.
        segment: gives the output.
        behind: see `layers_behind`.
        alive: tensors in memory in that step.
    """
    layers = torch_layers(graph)
    own, *later = named(layers[name] for name in behind[segment.name])
    if segment.addends:  # the addition is fused behind the layer that ends the branch
        summed = _ends_in_sum(segment) and segment.addends[0] in alive
        return (own, *later) if summed else tuple(later)
    if segment.operator == "Add" and len(segment.inputs) == 2:
        return (*sums(segment.inputs, _makers(graph), alive), *later)
    return (own, *later)


def written_over(
    graph: Graph, layer: str, behind: Mapping[str, Sequence[str]], alive: Collection[str]
) -> dict[str, Spared]:
    """Return what a layer's sum writes over and what is left of it would not -> without what.

    Where more than the sum is fused behind a layer, that runs by itself once the layer is removed,
    and its input and its output are there at once; unless it is fused to the layer that gives its
    input, since nothing else reads that then.
    """
    layers = torch_layers(graph)
    made = {segment.output: segment for segment in graph.segments}

    def fused(name: str, host: Segment) -> bool:
        maker = made.get(name)
        reads = sum(list(node.input).count(name) for node in host.nodes)
        others = (s for s in graph.segments if name in (*s.inputs, *s.addends) and s is not host)
        alone = reads == 1 and all(host.name in behind[other.name] for other in others)
        return maker is not None and maker.operator in HOSTS and alone and name not in graph.outputs

    return {
        name: ((layers[segment.name], layers[made[name].name] if name in made else ""),)
        for segment in graph.segments
        if segment.name == layer and not _ends_in_sum(segment)
        for name in segment.addends
        if name not in alive and not fused(name, segment)
    }


def sums(
    operands: Sequence[str], made: Mapping[str, str], alive: Collection[str] | None = None
) -> Spared:
    """Return, of two operands, without which one a sum is the other: where that one is `alive`.

    Args:
        operands: two tensors.
        made: tensor -> the layer without which it is not there, "" if there is none.
        alive: tensors in memory; None takes any.
    """
    return tuple(
        (made.get(gone, ""), made.get(kept, ""))
        for gone, kept in (operands, operands[::-1])
        if gone != kept and (alive is None or kept in alive)
    )


def named(layers: Iterable[str]) -> Spared:
    """Return `layers` as what spares a term, each by itself."""
    return tuple((name, "") for name in layers)


def torch_layers(graph: Graph) -> dict[str, str]:
    """Return layer as a runtime executes it -> the torch layer, of several that make one up too.

    Those follow each other: a torch layer's name on another one is an accident of the export.
    """
    found: dict[str, str] = {}
    made: dict[str, str] = {}
    for segment in graph.segments:
        own = any(made.get(name) == segment.layer for name in segment.inputs)
        found[segment.name] = segment.layer if own else segment.name
        made[segment.output] = found[segment.name]
    return found


def _makers(graph: Graph) -> dict[str, str]:
    """Return tensor -> the torch layer that gives it, without those that end in a fused sum.

    Without its layer such a sum is what is added, and so it is still there.
    """
    layers = torch_layers(graph)
    return {s.output: "" if s.addends else layers[s.name] for s in graph.segments}


def _ends_in_sum(segment: Segment) -> bool:
    """Whether nothing but the addition of one tensor is fused behind a layer."""
    last = segment.nodes[-1]
    return (
        last.op_type == "Add" and [n for n in last.input if n in segment.addends] == segment.addends
    )


def _of_sum(segment: Segment, made: Mapping[str, str]) -> Spared:
    alone = segment.operator == "Add" and len(segment.nodes) == 1
    return sums(segment.inputs, made) if alone and len(segment.inputs) == 2 else ()


def _passed_through(steps: Sequence[Step], outputs: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return step -> itself, and the steps on every way from it to an output, nearest first.

    In terms of graphs: its post-dominators (Lengauer and Tarjan 1979). What is only added to what a
    step computes goes around that step, though not around what follows it.
    """
    found: dict[str, tuple[str, ...]] = {}
    ways: dict[str, list[tuple[str, ...]]] = {name: [()] for name in outputs}
    for step in reversed(steps):
        own = [way for name in step.writes for way in ways.get(name, ())]
        nearest = min(own, key=len, default=())
        later = tuple(name for name in nearest if all(name in way for way in own))
        found[step.name] = (step.name, *later)
        for names, way in ((step.reads, found[step.name]), (step.adds, later)):
            for name in names:
                ways.setdefault(name, []).append(way)
    return found
