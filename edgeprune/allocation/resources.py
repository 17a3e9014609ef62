"""Limits beside the main cost as rows of the problem: MACs, parameters, file size, activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from edgeprune.allocation.problem import LayerTerm, Resource, Spared, layer_terms
from edgeprune.allocation.spared import layers_behind, spared_layers, spared_output, written_over
from edgeprune.export.fragments import template
from edgeprune.export.onnx_graph import RECURRENT as RECURRENT_OPERATORS
from edgeprune.export.segments import Graph
from edgeprune.pruning.channels import is_carrier
from edgeprune.pruning.recurrent import RECURRENT
from edgeprune.records import ChannelGroup, CostTable, PricedLayer
from edgeprune.sections import BudgetSection


@dataclass(frozen=True)
class Model:
    """What rows are derived from.

    Args:
        module: the dense torch model, whose parameters are counted.
        graph: its layers as exported, with the bytes of the precision that ships.
        groups: the groups of channels of the module.
        file_bytes: size of the dense file in that precision.
        whole: "macs" and "parameters" of the model that limits are shares of, where it is another.
    """

    module: nn.Module
    graph: Graph
    groups: Sequence[ChannelGroup]
    file_bytes: int
    whole: Mapping[str, int] = field(default_factory=dict)


def resource_rows(
    budget: BudgetSection, table: CostTable, model: Model, *, memory: bool = True
) -> tuple[Resource, ...]:
    """Return the rows for everything that `budget` limits besides latency.

    MACs and the bytes of weights follow the exported layers, parameters the torch modules, since
    that is what the gates count. Peak activation is one row a layer in execution order, over the
    tensors alive there; rows that no choice of widths can break are left out.

    Args:
        budget: the limits.
        table: offered widths, and the groups on both sides of each layer.
        model: see `Model`.
        memory: whether RAM and flash are those of a file run by a runtime; False where firmware
            has rows of its own.

    Raises:
        UsageError: a limit cannot be read.
    """
    rows: list[Resource] = []
    if budget.macs is not None:
        limit = budget.limit_of("macs", model.whole.get("macs", model.graph.macs))
        rows.append(_within(macs(table, model.graph), limit))
    if budget.parameters is not None:
        count = sum(parameter.numel() for parameter in model.module.parameters())
        limit = budget.limit_of("parameters", model.whole.get("parameters", count))
        rows.append(_within(parameters(table, model.module, model.groups), limit))
    if memory and budget.flash_kb is not None:
        rows.append(
            _within(file_bytes(table, model.graph, model.file_bytes), 1024 * budget.flash_kb)
        )
    if memory and budget.ram_kb is not None:
        rows += activations(table, model.graph, 1024 * budget.ram_kb)
    return tuple(rows)


def macs(table: CostTable, graph: Graph) -> Resource:
    """Return the multiply-accumulates of a run, without a limit.

    Those of a layer are proportional to both of its widths, of a depthwise one to its width. A
    recurrent layer has in * out for each gate and step, and out * out from one step to the next.
    """
    segments = {segment.name: segment for segment in graph.segments}
    depthwise = {s.name: template(graph, s).depthwise for s in graph.segments if s.macs}

    def value(layer: PricedLayer, width_in: int, width_out: int) -> float:
        found = segments[layer.name]
        if not found.macs:
            return 0.0
        share = width_out / layer.width_out
        if found.operator in RECURRENT_OPERATORS:
            share *= (width_in + width_out) / (layer.width_in + layer.width_out)
        elif not depthwise[layer.name]:
            share *= width_in / layer.width_in
        return found.macs * share

    terms, fixed = layer_terms(table, value, spared_layers(graph))
    return Resource("macs", "MACs", math.inf, _busy(terms), fixed)


def file_bytes(table: CostTable, graph: Graph, size: int) -> Resource:
    """Return the size of the exported file in bytes, without a limit.

    What is no weight (names, shapes, scales) is taken to be as large as in the dense file.
    """
    segments = {segment.name: segment for segment in graph.segments}
    depthwise = {s.name: template(graph, s).depthwise for s in graph.segments}
    weights = sum(segments[name].weight_bytes[w] for name, ws in graph.stored.items() for w in ws)

    def value(layer: PricedLayer, width_in: int, width_out: int) -> float:
        found = segments[layer.name]
        total = 0.0
        for name in graph.stored[layer.name]:
            size, kind = float(found.weight_bytes[name]), found.kind_of(name)
            if kind == "hidden":
                size *= width_out / layer.width_out
            elif kind == "in" and not depthwise[layer.name]:
                size *= width_in / layer.width_in
            total += size * width_out / layer.width_out
        return total

    terms, fixed = layer_terms(table, value, spared_layers(graph))
    return Resource("flash", "bytes", math.inf, _busy(terms), fixed + size - weights)


def activations(table: CostTable, graph: Graph, limit: float) -> list[Resource]:
    """Return one row for each layer in execution order: the bytes alive there.

    A tensor's bytes are proportional to the width of the group whose channels it holds. Tensors
    that hold several groups (concatenations) count in full. Terms tell with which layers they are
    spared, for branches that can be removed.
    """
    index = {name: g for g, name in enumerate(table.widths)}
    group_of = {layer.name: layer.group_out for layer in table.layers}
    made = {segment.output: segment for segment in graph.segments}
    behind = layers_behind(graph)
    rows, seen = [], set()
    for part, alive in graph.alive():
        sizes: dict[tuple[str | None, Spared], float] = {}
        for name in alive:
            segment = made.get(name)
            owner = group_of.get(segment.name) if segment else None
            spared = spared_output(graph, segment, behind, alive) if segment else ()
            sizes[owner, spared] = sizes.get((owner, spared), 0.0) + graph.bytes_of(name)
        for name, without in written_over(graph, part, behind, alive).items():
            owner = group_of.get(made[name].name) if name in made else None
            for spared, sign in (((), 1.0), (without, -1.0)):  # there once the layer is not
                before = sizes.get((owner, spared), 0.0)
                sizes[owner, spared] = before + sign * graph.bytes_of(name)
        fixed = sizes.pop((None, ()), 0.0)
        same = (fixed, frozenset(sizes.items()))
        most = fixed + sum(size for size in sizes.values() if size > 0)
        if most <= limit or same in seen:
            continue
        seen.add(same)
        terms = []
        for (group, spared), size in sizes.items():
            offered = table.widths[group] if group else (1,)
            costs = np.array([[size * width / offered[-1] for width in offered]])
            place = index[group] if group else None
            terms.append(LayerTerm(group or part, None, place, costs, spared))
        rows.append(Resource("ram", "bytes", limit, tuple(terms), fixed, part=part))
    return rows


def parameters(table: CostTable, module: nn.Module, groups: Sequence[ChannelGroup]) -> Resource:
    """Return the number of parameters of the torch model, without a limit.

    Terms of the output's width alone tell that they are spared with their layer: biases and
    BatchNorm at the end of a branch have the width of the skip connection, and go with the branch.
    """
    index = {name: g for g, name in enumerate(table.widths)}
    offered = [group for group in groups if group.name in index]
    outs = {name: group for group in offered for name in group.outputs}
    carried = {name: group for group in offered for name in group.carriers}
    ins: dict[str, list[ChannelGroup]] = {}
    for group in offered:
        for name in group.inputs:
            ins.setdefault(name, []).append(group)
    terms = []
    for name, layer in module.named_modules():
        own = outs.get(name) or carried.get(name)
        for key, parameter in layer.named_parameters(recurse=False):
            depends = _depends(layer, key, carrier=name in carried)
            second = own if "out" in depends else None
            sources: list[ChannelGroup | None] = [None]
            if "hidden" in depends:
                sources = [own]
            elif "in" in depends and name in ins:
                sources = [*ins[name]]
            whole = sum(source.width for source in sources if source is not None)
            for first in sources:
                count = parameter.numel() * (first.width / whole if first is not None else 1.0)
                term = _product(f"{name}.{key}", count, (first, second), table.widths, index)
                terms.append(term if first else replace(term, spared=((name, ""),)))
    return Resource("parameters", "parameters", math.inf, tuple(terms))


def _depends(layer: nn.Module, key: str, *, carrier: bool) -> set[str]:
    """Return on which widths of its layer the size of a parameter depends."""
    if isinstance(layer, RECURRENT):
        if key.startswith("bias"):
            return {"out"}
        return {"in", "out"} if key == "weight_ih_l0" else {"hidden", "out"}
    if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
        return set()
    if key == "weight" and not carrier and not is_carrier(layer):
        return {"in", "out"}
    return {"out"}


def _product(
    name: str,
    count: float,
    ends: tuple[ChannelGroup | None, ChannelGroup | None],
    widths: Mapping[str, tuple[int, ...]],
    index: Mapping[str, int],
) -> LayerTerm:
    """Return `count` times the shares of both widths."""
    shares = [
        np.array(widths[end.name]) / widths[end.name][-1] if end else np.ones(1) for end in ends
    ]
    first, second = (index[end.name] if end else None for end in ends)
    return LayerTerm(name, first, second, count * np.outer(*shares))


def _within(resource: Resource, limit: float) -> Resource:
    return Resource(
        resource.name, resource.unit, limit, resource.terms, resource.fixed, resource.part
    )


def _busy(terms: Sequence[LayerTerm]) -> tuple[LayerTerm, ...]:
    return tuple(term for term in terms if bool(term.costs.any()))
