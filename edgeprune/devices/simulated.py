"""A device with a known cost staircase and seeded noise: tests and docs know the right answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeprune.devices.protocol import Answer, ModelAnswer, NodeCosts, Request
from edgeprune.errors import DeviceError
from edgeprune.export.segments import ANCHORS, CHANNELS_LAST, Graph, Segment, read_graph
from edgeprune.records import DeviceSpec, Environment, Simulation

Floats = NDArray[np.float64]
START_SECONDS = 0.4  # from asking a process to its first run


@dataclass
class SimulatedDevice:
    """Computes the cost of an ONNX file from its shapes, as `Simulation` describes.

    Every call draws new noise from the simulation's seed and the number of the call, so a whole run
    is reproducible while repeated measurements differ. `elapsed` is the device's own clock in
    seconds: it advances by what the runs cost and by the start of each process.
    """

    spec: DeviceSpec
    calls: int = field(default=0)
    elapsed: float = field(default=0.0)
    slow: int = field(default=0)

    def ask(self, request: Request) -> Answer:
        """Answer without running anything; nothing is computed but costs."""
        if request.task in ("run", "memory"):
            raise DeviceError(
                f"device {self.spec.name} is simulated: it computes costs, not outputs or memory"
            )
        simulation = self.spec.simulation or Simulation()
        self.calls += 1
        random = np.random.default_rng([simulation.seed, self.calls, request.seed])
        runs = request.rounds * request.inner * request.openings
        speed = self._speed(simulation, request.seed, runs)
        models = []
        for model in request.models:
            graph = _graph(model.file, Path(model.file).stat().st_mtime_ns)
            costs = {s.name: segment_cost(s, simulation) for s in graph.segments}
            factor = math.exp(random.normal(0.0, simulation.process_noise))

            def noisy(cost: float, factor: float = factor) -> tuple[float, ...]:
                # Noise of a machine adds time and never takes any away.
                extra = (
                    np.abs(random.normal(0.0, simulation.noise, runs))
                    if simulation.noise
                    else np.zeros(runs)
                )
                return tuple((cost * factor * speed * (1.0 + extra)).tolist())

            layers = request.task == "layers"
            nodes = tuple(
                NodeCosts(
                    name=s.output,
                    operator=s.operator,
                    provider="simulated",
                    values=noisy(costs[s.name]),
                )
                for s in (graph.segments if layers else ())
            )
            values = noisy(sum(costs.values()))
            self.elapsed += sum(values) / 1e6
            models.append(
                ModelAnswer(
                    name=model.name,
                    load_seconds=0.0,
                    values=values,
                    nodes=nodes,
                    runs=noisy(sum(costs.values())) if layers else (),
                )
            )
        self.elapsed += START_SECONDS
        return Answer(
            stopped="fixed", models=tuple(models), environment=self._environment(simulation)
        )

    def _speed(self, simulation: Simulation, seed: int, runs: int) -> Floats:
        """Return the factor on the cost of each run that all models share."""
        random = np.random.default_rng([simulation.seed, self.calls, seed, 1])
        switches = random.random(runs) < 1 / simulation.regime_runs
        slow = (self.slow + np.cumsum(switches)) % 2
        self.slow = int(slow[-1])
        drift = 1.0 + simulation.drift * self.elapsed
        speed: Floats = np.where(slow == 1, simulation.regime, 1.0) * drift
        return speed

    def _environment(self, simulation: Simulation) -> Environment:
        facts = {name: str(value) for name, value in simulation.model_dump().items()}
        return Environment(facts={"device": "simulated", **facts}, comparable=("device", *facts))


def segment_cost(segment: Segment, simulation: Simulation) -> float:
    """Return the cost of a layer in microseconds, on the staircase of `simulation`."""
    if segment.operator not in ANCHORS or not segment.macs:
        return simulation.overhead_us / 4 + math.prod(segment.output_shape or (1,)) / 50_000
    axis = -1 if segment.operator in CHANNELS_LAST else 1
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
