"""All evidence about the exported slim model, against the dense one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgeprune.data import Data
from edgeprune.devices.protocol import Device
from edgeprune.export.onnx_graph import describe
from edgeprune.export.precision import Precision
from edgeprune.job import Job
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.timing import compare, cost_of_second
from edgeprune.records import Figures, ModelProfile
from edgeprune.verify.accuracy import Accuracy, evaluate
from edgeprune.verify.firmware import firmware_parity, footprints
from edgeprune.verify.gates import Evidence
from edgeprune.verify.guards import gates
from edgeprune.verify.inference import numeric_device
from edgeprune.verify.parity import parity


@dataclass(frozen=True)
class Subject:
    """A model, the float file it was exported to, and its profile where there is one already."""

    model: nn.Module
    file: Path
    profile: ModelProfile | None = None


def gather(
    job: Job,
    data: Data,
    device: Device,
    precision: Precision,
    *,
    dense: Subject,
    slim: Subject,
    recalibrated: float,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Evidence, ModelProfile]:
    """Return the evidence about `slim`, and its profile; files are taken in their `precision`.

    Raises:
        UnstableError: the comparison does not settle.
        DeviceError: the device fails.
    """
    files = precision.file(dense.file), precision.file(slim.file)
    artifacts = describe(dense.file), describe(files[1])
    numeric = numeric_device(device)
    integers = numeric_device(device, exact_integers=precision.name == "int8")
    note("speed, in interleaved pairs")
    comparison, environment = compare(
        device, *files, half_width=0.004, seconds=30.0, seed=job.seed + 1, note=note
    )

    def profiled(one: Subject, file: Path, name: str) -> ModelProfile:
        if one.profile is not None:
            return one.profile
        note(f"profile of the {name} model")
        title = f"{job.name} ({name})"
        return profile_model(device, file, name=title, layers=one.file, seed=job.seed)

    profiles = profiled(dense, files[0], "dense"), profiled(slim, files[1], "slim")
    note("parity of torch and the runtime")
    agreement = parity(slim.model, numeric, slim.file, describe(slim.file), data)
    firmware, memory = None, None
    if device.spec.runtime == "firmware":
        note("memory of the firmware")
        memory = footprints(device, files, job.seed)
        if precision.name == "int8":
            note("outputs of the firmware")
            firmware = firmware_parity(device, integers, files[1], artifacts[1], data)
    accuracies: list[Accuracy] = []
    for name, where, path, artifact in (
        ("dense", numeric, dense.file, artifacts[0]),
        ("slim", integers, files[1], artifacts[1]),
    ):
        note(f"accuracy of the {name} file in the runtime")
        accuracies.append(evaluate(where, path, artifact, data))
    first = comparison.first_cost
    costs = first, cost_of_second(comparison, first)[0]
    figures = [
        Figures(
            cost=cost,
            parameters=sum(p.numel() for p in one.model.parameters()),
            macs=profile.macs,
            accuracy=accuracy.value,
            file_bytes=artifact.file_bytes,
            peak_activation_bytes=profile.peak_activation_bytes,
        )
        for cost, one, profile, accuracy, artifact in zip(
            costs, (dense, slim), profiles, accuracies, artifacts, strict=True
        )
    ]
    if memory:
        figures = [
            one.model_copy(update={"footprint": found, "file_bytes": file.stat().st_size})
            for one, found, file in zip(figures, memory, files, strict=True)
        ]
    evidence = Evidence(
        dense=figures[0],
        slim=figures[1],
        comparison=comparison,
        parity=agreement,
        dense_accuracy=accuracies[0],
        slim_accuracy=accuracies[1],
        recalibrated_accuracy=recalibrated,
        environment=environment,
        firmware=firmware,
        guards=gates(job.guards, accuracies[0], accuracies[1], dense.model, slim.model),
    )
    return evidence, profiles[1]
