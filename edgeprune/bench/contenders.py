"""What is trained and measured for a row of the comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from edgeprune.bench import fresh, narrower
from edgeprune.bench.training import Progress, Trained, from_scratch, recovered
from edgeprune.data import Data
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.fingerprint import factory_digest
from edgeprune.job import Job
from edgeprune.pruning.shrink import shrink
from edgeprune.records import Narrow, WidthPlan
from edgeprune.sections import RecoverSection


@dataclass(frozen=True)
class Contender:
    """A model to be: its costs over the dense model's, and how it is made and trained.

    Two of equal `digest` train to the same for the same seed. `macs_ratio` is counted when it is
    called: rows that are finished need it no more.
    """

    cost_ratio: float
    macs_ratio: Callable[[], float]
    digest: str
    train: Callable[[Data, int, Progress], Trained]


@dataclass
class Contenders:
    """Makes contenders of a job for one length of recovery.

    Args:
        job: the job.
        folder: where its relative paths start.
        model: the dense model.
        data: gives the example inputs.
        steps: of recovery.
        exported: the dense model's ONNX file.
    """

    job: Job
    folder: Path
    model: nn.Module
    data: Data
    steps: int
    exported: Path
    _macs: dict[str, float] = field(default_factory=dict)  # digest of a plan -> share of dense

    def cut(self, plan: WidthPlan, cost_ratio: float) -> Contender:
        """Return the dense model cut as planned, with its weights."""
        settings = self._settings(self.steps)

        def train(data: Data, seed: int, progress: Progress) -> Trained:
            return recovered(self.model, data, plan, settings, seed=seed, progress=progress)

        name = _digest("cut", plan.digest, settings)
        return Contender(cost_ratio, partial(self.macs_ratio, plan), name, train)

    def scratch(self, plan: WidthPlan, cost_ratio: float) -> Contender:
        """Return the shape that a plan gives, with fresh weights."""
        settings = self._settings(self.steps + self.job.bench.dense_steps)

        def train(data: Data, seed: int, progress: Progress) -> Trained:
            inputs = data.example
            net = fresh.scratch(self.job, self.folder, self.model, inputs, plan, seed=seed)
            return from_scratch(net, self.model, data, settings, seed=seed, progress=progress)

        code = factory_digest(self.job.model.factory)  # makes the weights that it begins with
        name = _digest("scratch", plan.digest, settings, code)
        return Contender(cost_ratio, partial(self.macs_ratio, plan), name, train)

    def narrow(self, plan: Narrow) -> Contender:
        """Return the job's network at a smaller uniform width, with fresh weights."""
        settings = self._settings(self.steps + self.job.bench.dense_steps)

        def train(data: Data, seed: int, progress: Progress) -> Trained:
            net = fresh.narrow(self.job, self.folder, plan.factor, seed=seed)
            return from_scratch(net, self.model, data, settings, seed=seed, progress=progress)

        name = _digest(
            "narrower", repr(plan.factor), settings, narrower.code(self.job, self.folder)
        )
        return Contender(plan.cost_ratio, lambda: plan.macs_ratio, name, train)

    def macs_ratio(self, plan: WidthPlan) -> float:
        """Return the multiply-accumulates of a planned model over those of the dense one."""
        if plan.digest not in self._macs:
            inputs, opset = self.data.example, self.job.export.opset
            slim = shrink(self.model, inputs, plan)
            self._macs[plan.digest] = counted(slim, inputs, self.exported, opset=opset)
        return self._macs[plan.digest]

    def _settings(self, steps: int) -> RecoverSection:
        return self.job.recover.model_copy(update={"steps": steps})


def _digest(kind: str, what: str, settings: RecoverSection, code: str = "") -> str:
    """Return a name of a training: what is trained, and how."""
    text = "\n".join((kind, what, settings.model_dump_json(), code))
    return hashlib.sha256(text.encode()).hexdigest()


def counted(slim: nn.Module, inputs: tuple[Tensor, ...], dense: Path, *, opset: int) -> float:
    """Return the multiply-accumulates of `slim` over those of the exported `dense` model.

    They are counted in the exported file: products of widths do not tell what recurrent, grouped
    and depthwise layers keep.

    Args:
        slim: a cut model.
        inputs: example inputs, one tensor an argument.
        dense: the dense model's ONNX file.
        opset: of the export.

    Raises:
        UnsupportedModelError: `slim` cannot be exported.
    """
    whole = read_graph(dense).macs
    with TemporaryDirectory(prefix="edgeprune-") as folder:
        path = Path(folder, "slim.onnx")
        export(slim, inputs, path, opset=opset)
        return read_graph(path).macs / whole if whole else 1.0
