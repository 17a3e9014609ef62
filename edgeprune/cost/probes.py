"""Prices of single layers: fused ONNX sub-graphs, timed on the device."""

from __future__ import annotations

import hashlib
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeprune.cost.kept import Effort, PriceStore
from edgeprune.devices.protocol import Device, ModelAnswer, NodeCosts, Request, file_of
from edgeprune.errors import DeviceError, UnsupportedModelError
from edgeprune.export.fragments import Template, fragment, kept_nodes
from edgeprune.export.precision import Precision
from edgeprune.export.segments import CHANNELS_LAST
from edgeprune.profiler.layers import RESHAPES
from edgeprune.profiler.stats import floor_of
from edgeprune.records import Environment, ProbeCost

CHUNK = 48  # models a process holds at once
ANCHORS = 8  # kept prices that are measured anew
AGREEMENT = 0.1  # three quarters of them must have changed alike within this
REFERENCE = "reference"
LOUD, AGAIN = 1.05, 2  # cost of the reference over its least; times a chunk is measured once more
ROUNDED = 0.5  # of a microsecond, of which profilers count whole ones: no sign of a louder chunk
LEAST = 0.05  # of what the profiler says of nodes: what is left of it at least
LAYOUT = frozenset({"ReorderInput", "ReorderOutput"})
Shape = tuple[int, ...]
Widths = tuple[int, int]
Progress = Callable[[int, int], None]


@dataclass
class Probes:
    """Prices taken so far, shared between layers of the same shape.

    Args:
        device: where to measure.
        seed: order of the runs and random weights.
        precision: the form in which layers go to the device.
        store: prices of earlier jobs. Some of them are measured anew beside what is missing, and
            what is kept is scaled by how the device's speed has changed; where they do not agree
            on that, all is measured anew.
        environment: what the device must answer with.
        overhead: what the device's profiler adds to a node, in the device's unit.
        empty: what a node without work costs.
    """

    device: Device
    seed: int = 0
    precision: Precision = field(default_factory=Precision)
    store: PriceStore | None = None
    environment: Environment | None = None
    overhead: float = 0.0
    empty: float = 0.0
    taken: dict[str, ProbeCost] = field(default_factory=dict)
    measured: int = 0
    _keys: dict[tuple[int, Widths], str] = field(default_factory=dict)
    _reference: bytes | None = None
    _least: float = math.inf

    def price(self, layer: Template, widths: Widths) -> float:
        """Return a price that `take` measured before.

        Raises:
            UnsupportedModelError: it was not measured.
        """
        return self.of(layer, widths).cost

    def of(self, layer: Template, widths: Widths) -> ProbeCost:
        """Return all that `take` learned of a layer at these widths.

        Raises:
            UnsupportedModelError: it was not measured.
        """
        key = self._keys.get((id(layer), widths))
        if key is None or key not in self.taken:
            raise UnsupportedModelError(
                f"layer {layer.segment.name} has no price at widths {widths}"
            )
        return self.taken[key]

    def take(
        self,
        wanted: Iterable[tuple[Template, Widths]],
        *,
        processes: int = 1,
        rounds: int = 10,
        inner: int = 4,
        again: bool = False,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Measure what is `wanted`; what was measured before is measured anew only if `again`.

        Raises:
            DeviceError: the device answers with another environment than expected.
        """
        effort: Effort = "prices" if again else "stairs"
        if self.device.spec.exact:
            processes, rounds, inner, again = 1, 1, 1, False
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            files: dict[str, Path] = {}
            for layer, widths in wanted:
                key = self._keys.get((id(layer), widths)) or _signature(layer, widths)
                self._keys[id(layer), widths] = key
                if key in files or (key in self.taken and not again):
                    continue
                files[key] = Path(scratch, f"{len(files)}.onnx")
                content = fragment(layer, *widths, seed=self.seed)
                files[key].write_bytes(self.precision.fragment(content, self.seed))
            kept = self.store.load(effort) if self.store else {}
            kept = {key: kept[key] for key in files if key in kept}
            anchors = (
                [] if self.device.spec.exact else sorted(kept)[:: max(1, len(kept) // ANCHORS)]
            )
            run = {k: path for k, path in files.items() if k not in kept or k in anchors}

            def keep(costs: dict[str, ProbeCost]) -> None:
                if self.store and costs:
                    self.store.save(effort, costs)

            # Counts are final at once; a time is only when all its processes have run.
            each = keep if self.device.spec.exact else (lambda costs: None)
            found = self._measure(run, processes, rounds, inner, progress, each)
            speed = _agreed([found[key].cost / kept[key].cost for key in anchors])
            if speed is None:
                rest = {k: path for k, path in files.items() if k not in run}
                found |= self._measure(rest, processes, rounds, inner, progress)
                kept, speed = {}, 1.0
            self.taken.update({key: cost.times(speed) for key, cost in kept.items()} | found)
            new = {key: cost.times(1 / speed) for key, cost in found.items() if key not in kept}
            if not self.device.spec.exact:
                keep(new)

    def _measure(
        self,
        files: dict[str, Path],
        processes: int,
        rounds: int,
        inner: int,
        progress: Progress,
        each: Callable[[dict[str, ProbeCost]], None] = lambda costs: None,
    ) -> dict[str, ProbeCost]:
        """Return the least cost of each file over processes; `each` hears of every answer.

        Beside each chunk runs one reference, the same all along. What else runs on the machine
        slows all that a process runs for seconds, in which a floor is no price: chunks beside which
        the reference was slower than at its best are measured again.
        """
        order = np.random.default_rng(self.seed).permutation(sorted(files))
        chunks = [order[i : i + CHUNK].tolist() for i in range(0, len(order), CHUNK)]
        best: dict[str, ProbeCost] = {}
        least = [math.inf] * len(chunks)  # of the reference, beside each of them

        def ask(number: int, process: int) -> None:
            found = self._ask(chunks[number], files, rounds, inner, process)
            if self.device.spec.exact:
                least[number] = 0.0
            elif self._reference is None:  # none of the short ones, which the clock's steps blur
                dear = sorted(found, key=lambda key: found[key].cost)[3 * len(found) // 4]
                self._reference, self._least = files[dear].read_bytes(), found[dear].cost
                least[number] = self._least
            else:
                least[number] = min(least[number], found.pop(REFERENCE).cost)
                self._least = min(self._least, least[number])
            each(found)
            for key, cost in found.items():
                best[key] = min(cost, best.get(key, cost), key=lambda probe: probe.cost)

        turns = list(itertools.product(range(processes), range(len(chunks))))
        done, total = 0, len(turns)
        for process, number in turns:
            progress(done, total)
            ask(number, process)
            done += 1
        for process in range(processes, processes + AGAIN):
            loud = [n for n, cost in enumerate(least) if cost > LOUD * self._least + ROUNDED]
            total += len(loud)
            for number in loud:
                progress(done, total)
                ask(number, process)
                done += 1
        if total:
            progress(done, total)
        self.measured += len(best)
        return best

    def _ask(
        self, keys: Sequence[str], files: dict[str, Path], rounds: int, inner: int, process: int
    ) -> dict[str, ProbeCost]:
        models = [file_of(key, files[key]) for key in keys]
        if self._reference is not None:
            path = files[keys[0]].with_name(f"{REFERENCE}.onnx")
            path.write_bytes(self._reference)
            models.append(file_of(REFERENCE, path))
        request = Request(
            task="layers",
            models=tuple(models),
            rounds=rounds,
            inner=inner,
            warmup_runs=3,
            seed=self.seed + process,
            joined=True,
        )
        answer = self.device.ask(request)
        found = self.environment.differences(answer.environment) if self.environment else []
        if found:
            raise DeviceError(
                f"{self.device.spec.name} answers with another environment than the profile was "
                "taken in:\n  - " + "\n  - ".join(found),
                "start the job again without --resume",
            )
        return {model.name: _cost(model, self.overhead, self.empty) for model in answer.models}


def _agreed(ratios: Sequence[float]) -> float | None:
    """Return the median of costs now over costs kept, None where they disagree; 1 without any."""
    if not ratios:
        return 1.0
    middle = float(np.median(ratios))
    if not middle > 0:  # below the device's clock now
        return None
    off = sorted(abs(ratio / middle - 1) for ratio in ratios)
    return middle if off[(3 * len(off) - 1) // 4] <= AGREEMENT else None


def _cost(model: ModelAnswer, overhead: float = 0.0, empty: float = 0.0) -> ProbeCost:
    """Return the price: all nodes but the changes of layout at the borders of the sub-graph.

    The floor is that of the sums of runs: one of each node would lose what a clock of whole
    microseconds cuts off, node by node. What the profiler adds to each node is taken off; what an
    `empty` one costs and a twentieth of what the profiler says stay at least.
    """

    def price(nodes: Sequence[NodeCosts]) -> float:
        if not nodes:
            return 0.0
        if len({len(node.values) for node in nodes}) == 1:
            cost = floor_of(np.sum([node.values for node in nodes], axis=0).tolist())
        else:  # bodies of loops run more often
            cost = sum(floor_of(node.values) for node in nodes)
        return max(cost - overhead * len(nodes), empty * len(nodes), LEAST * cost)

    own = [index for index, node in enumerate(model.nodes) if not _changes_layout(node)]
    if not own:
        raise UnsupportedModelError(f"the device reports no node for probe {model.name}")
    return ProbeCost(
        cost=price(_without_copy([model.nodes[index] for index in own])),
        before=price(model.nodes[: own[0]]),
        after=price(model.nodes[own[-1] + 1 :]),
        operators=tuple(node.operator or "" for node in model.nodes),
    )


def _without_copy(nodes: list[NodeCosts]) -> list[NodeCosts]:
    """Return `nodes` without the copy that a reshape at the end makes for the output of a model.

    onnxruntime runs a product of more than two dimensions as a Gemm between two reshapes, which
    copy nothing within a model: the last one counts as the first.
    """
    first, last = RESHAPES
    inner = next((node for node in nodes if node.name.startswith(first)), None)
    copied = inner is not None and nodes[-1].name.startswith(last)
    return [*nodes[:-1], inner] if copied and inner else nodes


def _changes_layout(node: NodeCosts) -> bool:
    """Whether the runtime put this node in: its transposes carry no name of the model's."""
    added = node.operator == "Transpose" and node.name.partition("_token_")[0] == "Transpose"
    return added or node.operator in LAYOUT


def kind_of(layer: Template) -> str:
    """Return the same text for layers that one kernel computes: they differ in sizes alone."""
    forms = [[size == 1 for size in shape] for shape in _operands(layer)]
    return repr((*_operators(layer), forms, layer.flat > 1, layer.depthwise))


def parts_of(layer: Template) -> bool:
    """Whether a layer is a convolution in several parts, depthwise or not."""
    attributes = [a for node in kept_nodes(layer) for a in node.attribute]
    return any(a.name == "group" and a.i > 1 for a in attributes)


def _operators(layer: Template) -> tuple[object, ...]:
    nodes = kept_nodes(layer)
    sizes = {"hidden_size", *(["group"] if layer.depthwise else [])}  # attributes that are widths
    attributes = [
        sorted(a.SerializeToString().hex() for a in node.attribute if a.name not in sizes)
        for node in nodes
    ]
    weights = [shape[2:] for shape in layer.segment.weights.values()]
    return [node.op_type for node in nodes], attributes, weights


def _operands(layer: Template) -> list[Shape]:
    """Return the shapes of what is combined with the result of the layer's operator."""
    shapes = layer.segment.weights | dict(zip(layer.segment.addends, layer.addends, strict=True))
    return [shapes[n] for node in kept_nodes(layer)[1:] for n in node.input if n in shapes]


def _signature(layer: Template, widths: Widths) -> str:
    """Return the same text for two probes that compute the same thing under other names."""
    last = layer.segment.operator in CHANNELS_LAST
    shapes = [shape[:-1] if last else (shape[:1], shape[2:]) for shape in layer.input_shapes]
    operands = [
        (*shape[:-1], *("width" if size == layer.width_out else "one" for size in shape[-1:]))
        for shape in _operands(layer)
    ]
    facts = (*_operators(layer), operands, shapes, layer.flat, layer.depthwise, widths)
    return hashlib.sha256(repr(facts).encode()).hexdigest()
