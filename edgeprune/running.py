"""What all stages of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from edgeprune.data import Data
from edgeprune.devices.protocol import Device
from edgeprune.export.precision import Precision
from edgeprune.job import Job
from edgeprune.records import ModelProfile, Prepared
from edgeprune.report.console import Console
from edgeprune.store import RunFolder


@dataclass
class Run:
    """What all stages share; `attempt` stands before the names of files that an attempt owns.

    `model` is what is cut. Where it was `prepared` before, `original` is the dense model and
    `profiled` its profile.
    """

    job: Job
    model: nn.Module
    data: Data
    device: Device
    folder: RunFolder
    console: Console
    attempt: str = ""
    original: nn.Module | None = None
    prepared: Prepared | None = None
    profiled: ModelProfile | None = None

    @property
    def dense(self) -> nn.Module:
        """The dense model, which everything is compared with."""
        return self.model if self.original is None else self.original

    @property
    def start(self) -> str:
        """Name of the exported file of the model that is cut."""
        return "dense.onnx" if self.original is None else "base.onnx"

    def limit(self, cost: float) -> float:
        """Return what the slim model may cost, from the `cost` of the model that is cut."""
        gain = self.prepared.gain if self.prepared else None
        return self.job.request.limit(cost * (gain.median if gain else 1.0), self.device.spec.unit)

    def file(self, name: str) -> Path:
        """Return the path of a file in the run folder."""
        return self.folder.file(name)

    def own(self, name: str) -> Path:
        """Return the path of a file of this attempt."""
        return self.folder.file(self.attempt + name)

    @cached_property
    def precision(self) -> Precision:
        """In which form exported models go to the device."""
        return Precision.of(self.job, self.data)

    def exported(self, name: str) -> tuple[str, ...]:
        """Return the names of the exported file `name` and of its form for the device."""
        return tuple(dict.fromkeys((name, self.precision.file(Path(name)).name)))
