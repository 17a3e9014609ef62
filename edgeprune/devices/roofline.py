"""A device that is not there, estimated by a roofline: cost from shapes, peak and bandwidth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from edgeprune.devices.protocol import Answer, ModelAnswer, NodeCosts, Request
from edgeprune.errors import DeviceError, JobError
from edgeprune.export.segments import ANCHORS, CHANNELS_LAST, Graph, Segment, read_graph
from edgeprune.faults import every_key
from edgeprune.records import DeviceSpec, Environment, Roofline

PER_US = 1e3  # 10^9 a second are 10^3 a microsecond
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


class Work(NamedTuple):
    """What a layer has to do: operations on padded channels, and bytes moved."""

    flop: int
    bytes: int


@dataclass(frozen=True)
class RooflineDevice:
    """Computes the cost of an ONNX file from its shapes; the same file always costs the same."""

    spec: DeviceSpec

    @property
    def roofline(self) -> Roofline:
        """The numbers of the profile.

        Raises:
            JobError: the profile has none.
        """
        if self.spec.roofline is None:
            raise JobError(
                f"profile {self.spec.name}",
                ["roofline: this section is missing"],
                every_key("devices.md"),
            )
        return self.spec.roofline

    def ask(self, request: Request) -> Answer:
        """Answer without running anything; there is no `run` task here."""
        if request.task == "run":
            raise DeviceError(
                f"device {self.spec.name} is a roofline estimate: it computes costs, not outputs"
            )
        runs = request.rounds * request.inner * request.openings
        models = []
        for model in request.models:
            graph = _graph(model.file, Path(model.file).stat().st_mtime_ns)
            costs = [segment_cost(graph, segment, self.roofline) for segment in graph.segments]
            total = (sum(costs),) * runs
            nodes = tuple(
                NodeCosts(
                    name=segment.output,
                    operator=segment.operator,
                    provider="roofline",
                    values=(cost,) * runs,
                )
                for segment, cost in zip(graph.segments, costs, strict=True)
            )
            profiled = request.task == "layers"
            models.append(
                ModelAnswer(
                    name=model.name,
                    load_seconds=0.0,
                    values=total,
                    nodes=nodes if profiled else (),
                    runs=total if profiled else (),
                )
            )
        return Answer(stopped="fixed", models=tuple(models), environment=self._environment())

    def _environment(self) -> Environment:
        facts = {name: str(value) for name, value in self.roofline.model_dump().items()}
        return Environment(facts={"device": "roofline", **facts}, comparable=("device", *facts))


def segment_cost(graph: Graph, segment: Segment, roofline: Roofline) -> float:
    """Return the cost of a layer in microseconds.

        t = overhead + max(FLOP / (peak * efficiency), bytes / (bandwidth * efficiency))

    the roofline of Williams, Waterman and Patterson (Communications of the ACM 52(4), 2009) with
    an efficiency on each roof and a start-up cost. A layer that only changes the view of its input
    starts no kernel and costs nothing.
    """
    if segment.operator in VIEWS:
        return 0.0
    work = segment_work(graph, segment, roofline.tile)
    compute = work.flop / (PER_US * roofline.peak_gflops * roofline.compute_efficiency)
    memory = work.bytes / (PER_US * roofline.bandwidth_gbs * roofline.bandwidth_efficiency)
    return roofline.overhead_us + max(compute, memory)


def segment_work(graph: Graph, segment: Segment, tile: int) -> Work:
    """Return FLOP (two a multiply-accumulate, channels padded to `tile`) and bytes of a layer.

    Bytes are those of activations read, weights and output, each once and unpadded: what lies
    between a convolution and the operators fused behind it never reaches memory. Operators without
    multiply-accumulates count as bytes alone.
    """
    names = (*segment.inputs, *segment.addends, segment.output)
    moved = sum(
        math.prod(graph.shapes.get(name, (0,))) * graph.element_bytes.get(name, 4) for name in names
    )
    macs = segment.macs if segment.operator in ANCHORS else 0
    return Work(2 * round(macs * _padding(segment, tile)), moved + segment.parameter_bytes)


def _padding(segment: Segment, tile: int) -> float:
    """Return padded over real multiply-accumulates; both widths of a group are padded.

    A depthwise convolution sums over no channels, so that only its output is padded.
    """
    if not segment.macs or not segment.output_shape:
        return 1.0
    if segment.operator in CHANNELS_LAST:
        return _up(segment.input_shape[-1], tile) * _up(segment.output_shape[-1], tile)
    width_in, width_out = segment.input_shape[1], segment.output_shape[1]
    groups = next((a.i for a in segment.nodes[0].attribute if a.name == "group"), 1)
    if groups > 1 and groups == width_in:
        return _up(width_out, tile)
    return _up(width_in // groups, tile) * _up(width_out // groups, tile)


def _up(width: int, tile: int) -> float:
    """Return `width` rounded up to a multiple of `tile`, over `width`."""
    return -(-width // tile) * tile / width


@lru_cache(maxsize=4096)
def _graph(file: str, _modified: int) -> Graph:
    return read_graph(Path(file))
