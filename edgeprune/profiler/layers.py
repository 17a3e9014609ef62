"""Cost and memory of every layer of a model on a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeprune.devices.protocol import Device, NodeCosts, Request, file_of
from edgeprune.export.segments import Graph, Segment, read_graph
from edgeprune.profiler.stats import Interval, median_interval
from edgeprune.profiler.timing import sample
from edgeprune.records import LayerProfile, ModelProfile

Processes = list[tuple[float, ...]]
COMPILERS = frozenset(
    {"TensorrtExecutionProvider", "OpenVINOExecutionProvider", "CoreMLExecutionProvider"}
)


def profile_model(
    device: Device,
    path: Path,
    *,
    name: str,
    processes: int = 3,
    rounds: int = 60,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> ModelProfile:
    """Return the profile of the ONNX model at `path`.

    Layer costs are medians over profiled runs in fresh processes with 95 % cluster-bootstrap
    intervals; the total is that of runs without the profiler, which itself costs a few per cent.

    Raises:
        UnsupportedModelError: the file is not an ONNX model that the runtime takes.
        DeviceError: the device does not answer.
    """
    if device.spec.exact:
        processes, rounds = 1, 1
    graph = read_graph(path)
    note("whole model")
    samples, environment = sample(device, path, processes=processes, seed=seed)
    total = median_interval(samples.processes, seed=seed, resamples=500)
    layers: dict[str, Processes] = {}
    whole_graphs: dict[str, Processes] = {}
    layout: Processes = []
    runs: Processes = []
    peak: int | None = None
    for index in range(processes):
        note(f"layers, process {index + 1} of {processes}")
        answer = device.ask(
            Request(
                task="layers", models=(file_of("model", path),), rounds=rounds, seed=seed + index
            )
        ).models[0]
        owned, unowned = attribute(graph, answer.nodes)
        for layer, nodes in owned.items():
            layers.setdefault(layer, []).append(_sum(nodes))
        for node in [node for node in unowned if node.provider in COMPILERS]:
            unowned.remove(node)
            whole_graphs.setdefault(node.name, []).append(node.values)
        layout.append(_sum(unowned) if unowned else (0.0,))
        runs.append(answer.runs)
        peak = answer.peak_bytes if answer.peak_bytes is not None else peak
    rows = tuple(_row(segment, layers.get(segment.name), seed) for segment in graph.segments)
    rows += tuple(_row(_sub_graph(name), values, seed) for name, values in whole_graphs.items())
    whole = median_interval(runs, seed=seed, resamples=200)[0]
    return ModelProfile(
        model=name,
        device=device.spec.name,
        kind=device.spec.figure,
        unit=device.spec.unit,
        total=total[0],
        total_low=total[1],
        total_high=total[2],
        coverage=min(1.0, sum(row.cost for row in rows) / whole),
        layout=median_interval(layout, seed=seed, resamples=200)[0],
        peak_activation_bytes=graph.peak_activation_bytes(),
        runtime_peak_bytes=peak,
        parameters=graph.parameters,
        macs=graph.macs,
        file_bytes=path.stat().st_size,
        environment=environment,
        layers=rows,
    )


def attribute(
    graph: Graph, nodes: tuple[NodeCosts, ...]
) -> tuple[dict[str, list[NodeCosts]], list[NodeCosts]]:
    """Sort the runtime's nodes into layers; changes of layout belong to none and come apart.

    onnxruntime names a fused node after one of the tensors it replaced (with `_nchwc` behind it in
    the blocked layout, `fused ` before it for matrix products) or keeps the name of a node.
    """
    owner = {alias: segment.name for segment in graph.segments for alias in segment.aliases}
    owned: dict[str, list[NodeCosts]] = {}
    unowned: list[NodeCosts] = []
    for node in nodes:
        name = node.name.removeprefix("fused ").removesuffix("_nchwc")
        layer = owner.get(name) or owner.get(name.partition("_token_")[0])
        if layer is None:
            unowned.append(node)
        else:
            owned.setdefault(layer, []).append(node)
    return owned, unowned


def _sub_graph(name: str) -> Segment:
    """Return the row of what a provider compiled into one node, its layers not told apart."""
    return Segment(f"{name}: several layers in one", "sub-graph", [], [], name)


def _sum(nodes: list[NodeCosts]) -> tuple[float, ...]:
    """Return, run by run, the time of several nodes together."""
    return tuple(map(sum, zip(*(node.values for node in nodes), strict=True)))


def _row(segment: Segment, processes: Processes | None, seed: int) -> LayerProfile:
    """Return the row of one layer; a layer that the runtime removed costs 0."""
    cost: Interval = (0.0, 0.0, 0.0)
    if processes:
        cost = median_interval(processes, seed=seed, resamples=500)
    return LayerProfile(
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
    )
