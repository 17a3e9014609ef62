"""Cost and memory of every layer of a model on a device."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from edgeprune.devices.protocol import (
    Answer,
    Device,
    MemoryUse,
    ModelAnswer,
    NodeCosts,
    Request,
    file_of,
)
from edgeprune.errors import DeviceError, UnsupportedModelError
from edgeprune.export.external import size_of
from edgeprune.export.segments import Graph, Segment, as_int8, read_graph
from edgeprune.profiler.calibration import (
    Calibration,
    Counted,
    calibrate,
    calibrate_counts,
    limit,
)
from edgeprune.profiler.conditions import warnings_about, worst
from edgeprune.profiler.stats import (
    Interval,
    median_interval,
    process_interval,
    relative_half_width,
    settled_from,
    unrounded,
)
from edgeprune.profiler.sub_graphs import (
    above_their_cost,
    not_layout,
    not_told_apart,
    sub_graph,
    without_bodies,
)
from edgeprune.records import Environment, LayerProfile, ModelProfile, Peaks, Slice

Values = tuple[float, ...]
Stopped = Literal["enough", "time", "unstable", "exact"]
FUSIONS = re.compile(r"(/+\w+Fusion)+/*$")  # such as MatMulAddFusion, behind the node's name
RESHAPES = {"gemm_input_reshape": 1, "gemm_output_reshape": -1}  # where their Gemm is
PROCESS_SECONDS = 1.0  # of rounds in one process
LEAST = 0.05  # of what the profiler says of a node that is counted: what is left of it at least
OPENINGS = 3  # of the sessions in one process: where memory lies moves each by some per cent


@dataclass
class Measured:
    """What all processes brought back; lists hold one entry a process."""

    totals: list[Values] = field(default_factory=list)
    layers: dict[str, list[Values]] = field(default_factory=dict)
    sub_graphs: list[Values] = field(default_factory=list)
    compilers: dict[str, int] = field(default_factory=dict)  # provider -> nodes of several layers
    compiled: bool = False  # some of them hold whatever the provider took of the graph
    layout: list[Values] = field(default_factory=list)
    environments: list[Environment] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    last: ModelAnswer | None = None
    peak_bytes: int | None = None
    memory: MemoryUse | None = None
    counted: Counted = field(default_factory=Counted)


def profile_model(
    device: Device,
    path: Path,
    *,
    name: str,
    layers: Path | None = None,
    processes: int = 3,
    rounds: int = 20,
    seconds: float = 4.0,
    half_width: float = 0.03,
    settle: float = 0.15,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> ModelProfile:
    """Return the profile of the ONNX model at `path`.

    `layers` is the float form of an int8 model: names, shapes and work of the layers are read
    there, bytes are those of int8.

    Each fresh process runs the model with and without the runtime's profiler in the same rounds.
    Processes, at least `processes`, are added until the total's relative half width is at most
    `half_width` or `seconds` have passed; if it is then above `settle`, `stopped` is "unstable".
    What the profiler adds to a node is measured apart and taken off. The intervals hold 95 %.

    Raises:
        UnsupportedModelError: the file is not an ONNX model that the runtime takes.
        DeviceError: the device does not answer, or changes while it is measured.
    """
    if device.spec.functional_only:  # its times mean nothing: there is nothing to settle
        settle = math.inf
    graph = as_int8(read_graph(layers)) if layers and layers != path else read_graph(path)
    if not graph.segments:
        raise UnsupportedModelError(f"{path.name} has no layers: it gives nothing but constants")
    measured = device.spec.figure == "measured"
    calibration: Calibration | None = None
    found = Measured()
    if measured:
        note("memory")
        found.memory = _memory(device, path, found, seed)
        note("peaks of the device")
        calibration = calibrate(device, seed=seed)
    elif device.spec.exact:
        note("the profiler's own instructions")
        found.counted = calibrate_counts(device, seed=seed)
    started = clock()
    stopped: Stopped = "time"
    while len(found.totals) < processes or clock() - started < seconds:
        count = len(found.totals) + 1
        note(f"layers, process {count}")
        _one_process(device, path, graph, found, calibration, rounds, seed + count - 1)
        if device.spec.exact:
            stopped = "exact"
            break
        if count >= processes and _half_width(found.totals, seed) <= half_width:
            stopped = "enough"
            break
    if stopped == "time" and _half_width(found.totals, seed) > settle:
        stopped = "unstable"
    return _profile(device, path, name, graph, found, calibration, stopped, seed)


def _memory(device: Device, path: Path, found: Measured, seed: int) -> MemoryUse | None:
    """Return the resident memory that the model takes, in a process of its own."""
    request = Request(task="memory", models=(file_of("model", path),), rounds=3, seed=seed)
    answer = device.ask(request).models[0]
    found.loads.append(answer.load_seconds)
    return answer.memory


def _one_process(
    device: Device,
    path: Path,
    graph: Graph,
    found: Measured,
    calibration: Calibration | None,
    rounds: int,
    seed: int,
) -> None:
    """Add what one fresh process says of the model, with the profiler and without.

    Exact and computed devices are asked for the two in turn: there they do not disturb each other.
    """
    models, exact = (file_of("model", path),), device.spec.exact
    rounds = 1 if exact else rounds
    request = Request(
        task="layers",
        models=models,
        rounds=rounds,
        openings=OPENINGS if calibration else 1,
        unprofiled=calibration is not None,
        warmup_runs=10 if exact else 3,
        warmup_seconds=0.3,
        deadline_seconds=60.0 if exact else PROCESS_SECONDS,
        seed=seed,
    )
    answer = device.ask(request)
    model = without_bodies(answer.models[0])
    values = model.values
    if calibration is None:
        plain = device.ask(Request(task="time", models=models, rounds=rounds, seed=seed))
        _check(found, plain)
        values = plain.models[0].values
    _check(found, answer)
    cut = 0 if exact else settled_from(values)
    found.totals.append(values[cut:])
    owned, unowned = attribute(graph, model.nodes)
    for layer, nodes in owned.items():
        found.layers.setdefault(layer, []).append(_sum(nodes, cut, calibration or found.counted))
    untold = [node for node in unowned if not_layout(node)]
    if untold:
        found.sub_graphs.append(_sum(untold, cut, calibration or found.counted))
        found.compilers = Counter(str(node.provider) for node in untold)
        found.compiled = any(node.compiled for node in untold)
        unowned = [node for node in unowned if not not_layout(node)]
    found.layout.append(_sum(unowned, cut, calibration or found.counted) if unowned else (0.0,))
    found.loads.append(model.load_seconds)
    found.last = model
    found.peak_bytes = model.peak_bytes if model.peak_bytes is not None else found.peak_bytes


def _check(found: Measured, answer: Answer) -> None:
    """Keep the answer's environment; it must be comparable with that of earlier processes."""
    if found.environments:
        differences = found.environments[0].differences(answer.environment)
        if differences:
            raise DeviceError(
                "the device changed while it was measured: " + "; ".join(differences),
                "measure again; without --resume nothing of before is used",
            )
    found.environments.append(answer.environment)


def _profile(
    device: Device,
    path: Path,
    name: str,
    graph: Graph,
    found: Measured,
    calibration: Calibration | None,
    stopped: Stopped,
    seed: int,
) -> ModelProfile:
    """Put together what the processes found."""
    peaks = calibration.peaks if calibration else None
    missing = [s for s in graph.segments if found.sub_graphs and s.name not in found.layers]
    inside = [segment for segment in missing if found.compiled or segment.macs]
    rows = [
        _row(graph, segment, found.layers.get(segment.name), peaks, seed)
        for segment in graph.segments
        if segment not in inside
    ]
    layers = sum(row.cost for row in rows)
    compiled, together = 0.0, None
    if found.sub_graphs:
        row = _row(graph, sub_graph(inside, found.compilers), found.sub_graphs, peaks, seed)
        rows.append(row.model_copy(update={"inside": tuple(s.name for s in inside)}))
        compiled, together = row.cost, row.name
    total, layout = _interval(found.totals, seed), _interval(found.layout, seed)[0]
    whole = max(total[0], layers + compiled + layout)
    assert found.last is not None
    memory = found.memory
    return ModelProfile(
        model=name,
        device=device.spec.name,
        kind=device.spec.figure,
        unit=device.spec.unit,
        total=total[0],
        total_low=total[1],
        total_high=total[2],
        coverage=layers / whole if whole else 0.0,
        layout=layout,
        peak_activation_bytes=graph.peak_activation_bytes(),
        runtime_peak_bytes=found.peak_bytes,
        parameters=graph.parameters,
        macs=graph.macs,
        file_bytes=size_of(path),
        environment=worst(found.environments),
        layers=tuple(rows),
        sum_of_layers=layers,
        sub_graphs=compiled,
        rest=total[0] - layers - compiled - layout,
        node_overhead=(calibration or found.counted).overhead,
        empty_node=calibration.empty if calibration else 0.0,
        call=(calibration or found.counted).call,
        processes=len(found.totals),
        runs=sum(map(len, found.totals)),
        stopped=stopped,
        load_seconds=float(np.median(found.loads)) if calibration else None,
        resident_peak_bytes=memory.running - memory.before if memory else None,
        loading_peak_bytes=memory.loading - memory.before if memory else None,
        peaks=peaks,
        warnings=(
            *not_told_apart(inside, found.compilers),
            *(above_their_cost(found.last) if calibration else ()),
            *warnings_about(found.totals, found.environments, measured=calibration is not None),
        ),
        timeline=timeline(graph, found.last, together),
    )


def attribute(
    graph: Graph, nodes: tuple[NodeCosts, ...]
) -> tuple[dict[str, list[NodeCosts]], list[NodeCosts]]:
    """Sort the runtime's nodes into layers; changes of layout belong to none and come apart.

    onnxruntime names a fused node after one of the tensors it replaced (with `_nchwc` behind it in
    the blocked layout, `fused ` before it for matrix products) or keeps the name of a node, with
    the names of its fusions behind it. A matrix product of more than two dimensions that it turns
    into a Gemm gets a reshape before and one behind, which belong to it.
    Firmware names torch layers, also those of operators that are fused here.
    """
    owner = {
        node.name.rpartition("/")[0]: segment.name
        for segment in graph.segments
        for node in segment.nodes
    }
    owner |= {alias: segment.name for segment in graph.segments for alias in segment.aliases}

    def layer_of(node: NodeCosts) -> str | None:
        name = FUSIONS.sub("", node.name.removeprefix("fused ").removesuffix("_nchwc"))
        return owner.get(name) or owner.get(name.partition("_token_")[0])

    owned: dict[str, list[NodeCosts]] = {}
    unowned: list[NodeCosts] = []
    for index, node in enumerate(nodes):
        layer = layer_of(node)
        beside = next((step for name, step in RESHAPES.items() if node.name.startswith(name)), 0)
        if layer is None and beside and 0 <= index + beside < len(nodes):
            layer = layer_of(nodes[index + beside])
        if layer is None:
            unowned.append(node)
        else:
            owned.setdefault(layer, []).append(node)
    return owned, unowned


def timeline(graph: Graph, answer: ModelAnswer, together: str | None) -> tuple[Slice, ...]:
    """Return the nodes of the profiled run whose length is the median of all, in order.

    What was compiled belongs to the row called `together`.
    """
    if not answer.nodes:
        return ()
    sums = np.sum([node.values for node in answer.nodes], axis=0)
    run = int(np.argsort(sums)[len(sums) // 2])
    owned, _ = attribute(graph, answer.nodes)
    layer_of = {id(node): layer for layer, nodes in owned.items() for node in nodes}
    slices, end = [], 0.0
    origin = min((node.starts[run] for node in answer.nodes if node.starts), default=0.0)
    for node in answer.nodes:
        start = node.starts[run] - origin if node.starts else end
        end = start + node.values[run]
        slices.append(
            Slice(
                name=node.name,
                operator=node.operator or "unknown",
                layer=layer_of.get(id(node), together if not_layout(node) else None),
                start=start,
                duration=node.values[run],
            )
        )
    return tuple(slices)


def _sum(nodes: Sequence[NodeCosts], cut: int, known: Calibration | Counted) -> Values:
    """Return, run by run, the cost of several nodes without what the profiler added to each."""
    taken = np.array([node.values[cut:] for node in nodes])
    if isinstance(known, Calibration):
        taken = np.array([unrounded(row) for row in taken])
        taken = np.maximum(taken - known.overhead, known.empty)
    elif known.overhead:
        taken = np.maximum(taken - known.overhead, np.ceil(LEAST * taken))
    return tuple(taken.sum(axis=0).tolist())


def _half_width(totals: list[Values], seed: int) -> float:
    return relative_half_width(_interval(totals, seed))


def _interval(processes: list[Values], seed: int) -> Interval:
    """Return centre and 95 % interval; costs of 0 have no logarithm."""
    if min(map(min, processes)) > 0:
        return process_interval(processes, seed=seed)
    return median_interval(processes, seed=seed, resamples=500)


def _row(
    graph: Graph,
    segment: Segment,
    processes: list[Values] | None,
    peaks: Peaks | None,
    seed: int,
) -> LayerProfile:
    """Return the row of one layer; a layer that the runtime removed costs 0."""
    cost = _interval(processes, seed) if processes else (0.0, 0.0, 0.0)
    moved = graph.moved_bytes(segment)
    row = LayerProfile(
        name=segment.name,
        operator=segment.operator,
        cost=cost[0],
        low=cost[1],
        high=cost[2],
        input_shape=segment.input_shape,
        output_shape=segment.output_shape,
        macs=segment.macs,
        parameter_bytes=segment.parameter_bytes,
        activation_bytes=segment.activation_bytes,
        moved_bytes=moved,
    )
    if peaks is None or not cost[0]:
        return row
    least, bound = limit(peaks, segment.macs, moved)
    return row.model_copy(
        update={
            "flops_per_second": 1e6 * 2 * segment.macs / cost[0],
            "bytes_per_second": 1e6 * moved / cost[0],
            "limit_cost": least,
            "bound": bound,
        }
    )
