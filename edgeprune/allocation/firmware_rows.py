"""RAM and flash of int8 firmware as rows of the allocation problem."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgeprune.allocation.problem import LayerTerm, Matrix, Resource, Spared
from edgeprune.allocation.spared import named, operators_behind, sums
from edgeprune.export.arena import ALIGNMENT, plan_memory
from edgeprune.export.integer_operators import (
    Addition,
    Alias,
    Concatenation,
    Convolution,
    FullyConnected,
    IntegerGraph,
    Operator,
    Tensor,
)
from edgeprune.export.lowering import lower
from edgeprune.export.qdq import natural_order
from edgeprune.records import CostTable, Footprint, PricedLayer, Target

PADDING_BYTES = 24  # at most, to start arena and scratch at multiples of 16
MARGIN_BYTES = 512  # firmware may take so much more than the rows say before one is missed


@dataclass(frozen=True)
class FirmwareMemory:
    """What the firmware of a model takes of RAM and flash at any of the offered widths.

    RAM is the largest sum of tensors alive in one step, the largest scratch of a layer, canaries
    and the stack. Tensors, scratch and weights follow the widths exactly; the bytes of code and the
    depth of the stack are those that the dense firmware was seen to have.

    Args:
        graph: the dense int8 model.
        table: offered widths, and the groups on both sides of each layer.
        target: which kernels the core runs.
        footprint: of the dense firmware.
    """

    graph: IntegerGraph
    table: CostTable
    target: Target
    footprint: Footprint

    def flash(self, limit: float) -> tuple[Resource, ...]:
        """Return the row of flash bytes, or none where no widths can break it."""
        if self.footprint.flash_bytes <= limit:
            return ()
        fixed, terms = 0.0, []
        for operator in self._steps:
            fixed -= self._needs(operator, operator, self.graph.tensors)[0]
            term = self._term(operator, 0)
            if isinstance(term, LayerTerm):
                terms.append(term)
            else:
                fixed += term
        return (
            Resource("flash", "bytes", limit, tuple(terms), fixed + self.footprint.flash_bytes),
        )

    def ram(self, limit: float) -> tuple[Resource, ...]:
        """Return the rows of RAM bytes: every step with the scratch of every layer.

        A row's limit holds for the largest of them. Rows that no widths can break are left out.
        """
        state = self.footprint.static_bytes - self.footprint.arena_bytes
        other = state - self.footprint.scratch_bytes + self.footprint.stack_bytes + PADDING_BYTES
        scratch = {op.name: self._term(op, 1) for op in self._steps}
        needs = {name: term for name, term in scratch.items() if not isinstance(term, float)}
        fixed_scratch = max((t for t in scratch.values() if isinstance(t, float)), default=0.0)
        rows: dict[object, Resource] = {}
        for step, alive, fixed in self._alive():
            for name, term in {"": fixed_scratch, **needs}.items():
                own = (term,) if isinstance(term, LayerTerm) else ()
                base = fixed + other + (0.0 if own else fixed_scratch)
                row = Resource("ram", "bytes", limit, (*alive, *own), base, part=f"{step}, {name}")
                largest = base + sum(float(t.costs.max()) for t in row.terms)
                key = (name, base, tuple((t.name, t.spared, t.costs.tobytes()) for t in alive))
                if largest > limit - MARGIN_BYTES:
                    rows.setdefault(key, row)
        return tuple(rows.values())

    @cached_property
    def _steps(self) -> list[Operator]:
        return [op for op in self.graph.operators if not isinstance(op, Alias)]

    @cached_property
    def _layers(self) -> dict[str, PricedLayer]:
        return {layer.name: layer for layer in self.table.layers}

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.table.widths)}

    @cached_property
    def _shares(self) -> dict[str, dict[str, float]]:
        """Tensor -> group -> bytes for each channel of it; the rest of its bytes is fixed."""
        shares: dict[str, dict[str, float]] = {self.graph.input: {}}
        for operator in self.graph.operators:
            size = self.graph.tensors[operator.output].bytes
            if isinstance(operator, Convolution | FullyConnected):
                layer = self._layers.get(operator.layer)
                group = layer.group_out if layer else None
                shares[operator.output] = {group: size / self._dense(group)} if group else {}
                continue
            found: dict[str, float] = {}
            sources = (
                operator.inputs if isinstance(operator, Concatenation) else operator.inputs[:1]
            )
            for name in sources:
                whole = size if len(sources) == 1 else self.graph.tensors[name].bytes
                for group, share in shares[name].items():
                    scaled = share * whole / self.graph.tensors[name].bytes
                    found[group] = found.get(group, 0.0) + scaled
            shares[operator.output] = found
        return shares

    def _dense(self, group: str) -> int:
        return self.table.widths[group][-1]

    def _alive(self) -> Iterator[tuple[int, tuple[LayerTerm, ...], float]]:
        """Yield (step, terms of the tensors alive there, bytes that stay as they are)."""
        memory = plan_memory(self.graph)
        for step in range(max(1, len(self._steps))):
            sizes: dict[tuple[str | None, Spared], Matrix] = {}
            alive = {
                self._there(names, step): (life.bytes, names[0])
                for life, names in zip(memory.lifetimes, memory.members, strict=True)
                if life.first <= step <= life.last
            }
            for tensor, (whole, first) in alive.items():
                shares, spared = self._shares[first], self._spared(tensor, memory.owner, alive)
                rest = whole - sum(share * self._dense(g) for g, share in shares.items())
                found: dict[str | None, list[float]] = {None: [_aligned(rest)]}
                for group, share in shares.items():
                    found[group] = [_aligned(share * w) for w in self.table.widths[group]]
                for owner, each in found.items():
                    before = sizes.get((owner, spared), np.zeros((1, len(each))))
                    sizes[owner, spared] = before + each
            fixed = float(sizes.pop((None, ()), np.zeros(1)).sum())
            terms = (
                LayerTerm(g or "fixed", None, self._index[g] if g else None, costs, spared)
                for (g, spared), costs in sizes.items()
                if costs.any()
            )
            yield step, tuple(terms), fixed

    def _there(self, names: Sequence[str], step: int) -> str:
        """Return which of tensors that follow each other in one place is there in a step."""
        return [name for name in names if self._written.get(name, 0) <= step][-1]

    def _spared(self, tensor: str, owner: Mapping[str, str], alive: Collection[str]) -> Spared:
        """Return without which layers a tensor is not in memory, as `spared_output` does."""
        if tensor == self.graph.input:
            return ()
        own, *later = named(self._behind[tensor])
        operator = self._steps[self._written[tensor]]
        if not isinstance(operator, Addition):
            return (own, *later)
        operands = [owner[name] for name in operator.inputs]
        if tensor == self.graph.output or self.graph.input in operands:
            return tuple(later)  # what is the caller's is not written over: another place is needed
        made = {name: layers[0] for name, layers in self._behind.items()}
        return (*sums(operands, made, alive), *later)

    @cached_property
    def _written(self) -> dict[str, int]:
        """Tensor -> the step that writes it."""
        return {operator.output: step for step, operator in enumerate(self._steps)}

    @cached_property
    def _behind(self) -> dict[str, tuple[str, ...]]:
        return operators_behind(self.graph)

    def _term(self, operator: Operator, which: int) -> LayerTerm | float:
        """Return weight bytes (`which` 0) or scratch (1) of a layer: over its widths, or fixed."""
        first, second = self._ends(operator)
        needs = self._needs(operator, operator, self.graph.tensors)[which]
        if first is None and second is None:
            return float(needs)
        ins = self.table.widths[first] if first else (0,)
        outs = self.table.widths[second] if second else (0,)
        same = first == second
        costs = np.array(
            [
                [self._at(operator, a, b)[which] if not same or a == b else 0.0 for b in outs]
                for a in ins
            ],
            float,
        )
        if not costs.any():
            return 0.0
        return LayerTerm(
            operator.layer,
            self._index[first] if first else None,
            self._index[second] if second else None,
            costs,
        )

    def _ends(self, operator: Operator) -> tuple[str | None, str | None]:
        """Return the groups whose channels go in and come out."""
        if isinstance(operator, Convolution | FullyConnected):
            layer = self._layers.get(operator.layer)
            return (layer.group_in, layer.group_out) if layer else (None, None)
        groups = list(self._shares[operator.output])
        only = groups[0] if len(groups) == 1 and len(set(operator.inputs)) <= 2 else None
        return only, only

    def _at(self, operator: Operator, width_in: int, width_out: int) -> tuple[int, int]:
        """Return weight bytes and scratch of a layer at these widths (0: as it is)."""
        first, second = self._ends(operator)
        share_in = width_in / self._dense(first) if first else 1.0
        share_out = width_out / self._dense(second) if second else 1.0
        tensors = {name: _resized(self.graph.tensors[name], share_in) for name in operator.inputs}
        tensors[operator.output] = _resized(self.graph.tensors[operator.output], share_out)
        resized = operator
        if isinstance(operator, Convolution | FullyConnected):
            outs, ins = round(operator.weights.shape[0] * share_out), operator.weights.shape[1]
            grouped = isinstance(operator, Convolution) and operator.groups > 1
            ins = ins if grouped else round(ins * share_in)
            cut = replace(
                operator,
                weights=operator.weights[:outs, :ins],
                weight_scales=operator.weight_scales[:outs],
                bias=operator.bias[:outs],
            )
            if isinstance(cut, Convolution) and grouped:
                cut = replace(cut, groups=round(cut.groups * share_in))
            resized = cut
        return self._needs(operator, resized, tensors)

    def _needs(
        self, dense: Operator, operator: Operator, tensors: Mapping[str, Tensor]
    ) -> tuple[int, int]:
        graph = IntegerGraph((operator,), dict(tensors), dense.inputs[0], dense.output)
        kernel = lower(operator, graph, self.target, "edgeprune")
        return sum(constant.bytes for constant in kernel.constants), kernel.scratch


def _resized(tensor: Tensor, share: float) -> Tensor:
    """Return `tensor` with this share of its channels."""
    batch, channels, *rest = tensor.shape
    shape = (batch, round(channels * share), *rest)
    return replace(tensor, shape=shape, order=natural_order(shape))


def _aligned(size: float) -> float:
    return -(-round(size) // ALIGNMENT) * float(ALIGNMENT)
