"""The one question every device answers, and its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from edgeprune.records import DeviceSpec, Environment, Footprint

# Providers that compile what they take of a graph: each part becomes one node of the runtime's.
COMPILERS = frozenset(
    f"{name}ExecutionProvider"
    for name in ("Tensorrt", "NvTensorRTRTX", "OpenVINO", "CoreML", "QNN", "MIGraphX", "VitisAI")
)


class Message(BaseModel):
    """Base of the messages: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFile(Message):
    """A model to run: a name for the answer, and its file."""

    name: str
    file: str


class Request(Message):
    """What to do with which models; see profiler/worker.py for the tasks.

    Sessions are opened `openings` times (tasks `time` and `layers`); each time `rounds` visits are
    made to every model with `inner` runs each. `paired` alternates the order of two models instead
    of drawing it; after `deadline_seconds` the worker stops and says so; in task `run`, `made` then
    tells of how many runs, from the first on, the outputs are there.
    `unprofiled` (task `layers` only) times whole runs without the profiler in the same rounds.
    `joined` (task `layers` only) says that the costs of layers are all that counts, so that a
    device may run several models as one program.
    """

    task: Literal["time", "layers", "run", "memory"]
    models: tuple[ModelFile, ...]
    rounds: int = 1
    inner: int = 1
    openings: int = 1
    paired: bool = False
    unprofiled: bool = False
    joined: bool = False
    warmup_runs: int = 10
    warmup_seconds: float = 1.0
    deadline_seconds: float = 60.0
    seed: int = 0
    inputs: str | None = None
    outputs: str | None = None


class NodeCosts(Message):
    """Costs of one node of the runtime's own graph, run by run, in the device's unit.

    `starts` tells when each run of the node began, on the clock of the runtime's profiler.
    """

    name: str
    operator: str | None
    provider: str | None
    values: tuple[float, ...]
    starts: tuple[float, ...] = ()

    @property
    def compiled(self) -> bool:
        """Whether this is a part of the graph that the provider compiled, of one layer or many."""
        return self.provider in COMPILERS


class MemoryUse(Message):
    """Bytes of the worker's memory that is resident: before the model, loading it, running it."""

    before: int
    loading: int
    running: int


class ModelAnswer(Message):
    """Raw samples of one model in the device's unit; the task decides which fields are filled."""

    name: str
    load_seconds: float
    warmup: int = 0
    values: tuple[float, ...] = ()
    nodes: tuple[NodeCosts, ...] = ()
    runs: tuple[float, ...] = ()
    made: int = 0
    programs: dict[str, tuple[float, ...]] = {}
    peak_bytes: int | None = None
    footprint: Footprint | None = None
    memory: MemoryUse | None = None


class Answer(Message):
    """What one fresh process on the device brought back."""

    stopped: Literal["fixed", "time"]
    models: tuple[ModelAnswer, ...]
    environment: Environment


class Obstacle(NamedTuple):
    """Why a device cannot be used here, and the command (or advice) that would change it."""

    why: str
    help: str = "edgeprune doctor"


class Device(Protocol):
    """A device that can be asked."""

    @property
    def spec(self) -> DeviceSpec:
        """The profile of the device."""

    def ask(self, request: Request) -> Answer:
        """Answer `request` in a fresh process.

        Raises:
            DeviceError: the device does not answer or its worker failed.
            DeadlineError: it did not answer in time.
        """


def file_of(name: str, path: Path) -> ModelFile:
    """Return the model file `path` under `name`."""
    return ModelFile(name=name, file=str(path.resolve()))
