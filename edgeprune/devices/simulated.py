"""A device with a known cost staircase and seeded noise: tests and docs know the right answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgeprune.devices.protocol import Answer, ModelAnswer, NodeCosts, Request
from edgeprune.errors import DeviceError
from edgeprune.export.segments import ANCHORS, Graph, Segment, read_graph
from edgeprune.records import DeviceSpec, Environment, Simulation


@dataclass
class SimulatedDevice:
    """Computes the cost of an ONNX file from its shapes, as `Simulation` describes.

    Every call draws new noise from the simulation's seed and the number of the call, so a whole run
    is reproducible while repeated measurements differ.
    """

    spec: DeviceSpec
    calls: int = field(default=0)

    def ask(self, request: Request) -> Answer:
        """Answer without running anything; there is no `run` task here."""
        if request.task == "run":
            raise DeviceError(
                f"device {self.spec.name} is simulated: it computes costs, not outputs"
            )
        simulation = self.spec.simulation or Simulation()
        self.calls += 1
        random = np.random.default_rng([simulation.seed, self.calls, request.seed])
        runs = request.rounds * request.inner * request.openings
        models = []
        for model in request.models:
            graph = _graph(model.file, Path(model.file).stat().st_mtime_ns)
            costs = {s.name: segment_cost(s, simulation) for s in graph.segments}

            def noisy(cost: float) -> tuple[float, ...]:
                # Noise of a machine adds time and never takes any away.
                extra = (
                    np.abs(random.normal(0.0, simulation.noise, runs))
                    if simulation.noise
                    else np.zeros(runs)
                )
                return tuple(cost * (1.0 + extra))

            nodes = tuple(
                NodeCosts(
                    name=s.output,
                    operator=s.operator,
                    provider="simulated",
                    values=noisy(costs[s.name]),
                )
                for s in graph.segments
            )
            total = sum(costs.values())
            models.append(
                ModelAnswer(
                    name=model.name,
                    load_seconds=0.0,
                    values=noisy(total),
                    nodes=nodes if request.task == "layers" else (),
                    runs=noisy(total) if request.task == "layers" else (),
                )
            )
        return Answer(
            stopped="fixed", models=tuple(models), environment=self._environment(simulation)
        )

    def _environment(self, simulation: Simulation) -> Environment:
        facts = {name: str(value) for name, value in simulation.model_dump().items()}
        return Environment(facts={"device": "simulated", **facts}, comparable=("device", *facts))


def segment_cost(segment: Segment, simulation: Simulation) -> float:
    """Return the cost of a layer in microseconds, on the staircase of `simulation`."""
    if segment.operator not in ANCHORS or not segment.macs:
        return simulation.overhead_us / 4 + math.prod(segment.output_shape or (1,)) / 50_000
    axis = -1 if segment.operator in ("Gemm", "MatMul") else 1
    width_in, width_out = segment.input_shape[axis], segment.output_shape[axis]
    step = simulation.step

    def up(width: int) -> int:
        return -(-width // step) * step

    rounded = segment.macs / (width_in * width_out) * up(width_in) * up(width_out)
    misaligned = width_out % step != 0
    cost = simulation.overhead_us + rounded / simulation.macs_per_us
    return cost * simulation.cliff if misaligned and width_out > step else cost


@lru_cache(maxsize=4096)
def _graph(file: str, _modified: int) -> Graph:
    return read_graph(Path(file))
