"""Looks at models outside a job: profile anything, compare any two files."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import torch

from edgeprune.devices.protocol import Device
from edgeprune.errors import UsageError
from edgeprune.export.onnx_graph import describe, export
from edgeprune.job import FACTORY, load_job
from edgeprune.loading import call_factory
from edgeprune.pipeline import load
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.timing import compare
from edgeprune.records import (
    Comparison,
    Environment,
    Gate,
    Kind,
    ModelProfile,
    Parity,
    Record,
    Unit,
)
from edgeprune.verify.files import file_parity
from edgeprune.verify.gates import speed_gate
from edgeprune.verify.inference import numeric_device

OPSET = 20
PLAN = "edgeprune.plan"
PRUNED = "not a gate: one file is pruned and the other is not, so their outputs differ"


class FileComparison(Record):
    """Two files against each other: `speedup` is cost before / cost after, with its interval."""

    device: str
    kind: Kind
    unit: Unit
    passed: bool
    before: str
    after: str
    speedup: Comparison
    parity: Parity
    gates: tuple[Gate, ...]
    environment: Environment


def profile_anything(
    what: str,
    device: Device,
    scratch: Path,
    *,
    shape: str | None = None,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> ModelProfile:
    """Profile a job.toml, an .onnx file, or pkg.module:factory with an input of `shape`.

    Raises:
        UsageError: `what` is none of these, or a factory comes without a shape.
        UnsupportedModelError: the model cannot be exported or run.
    """
    path, name = _model_file(what, shape, scratch / "model.onnx", note)
    return profile_model(device, path, name=name, seed=seed, note=note)


def compare_files(
    before: Path,
    after: Path,
    device: Device,
    *,
    tolerance: float,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> FileComparison:
    """Compare two ONNX files: parity on the same random inputs, and cost in interleaved pairs.

    Raises:
        UnsupportedModelError: not ONNX, or with different inputs or outputs.
        UnstableError: the comparison does not settle.
    """
    first, second = (before, describe(before)), (after, describe(after))
    note("parity")
    agreement = file_parity(numeric_device(device), first, second, tolerance=tolerance, seed=seed)
    comparison, environment = compare(device, before, after, seed=seed, note=note)
    spec = device.spec
    command = shlex.join(
        ["edgeprune", "verify", str(before), str(after), "--device", spec.measured_by or ""]
    )
    speed = speed_gate(
        comparison,
        spec.figure,
        functional_only=spec.functional_only,
        command=command if spec.measured_by else "",
    )
    pruned = first[1].metadata.get(PLAN) != second[1].metadata.get(PLAN)
    return FileComparison(
        device=spec.name,
        kind=spec.figure,
        unit=spec.unit,
        passed=(agreement.passed or pruned) and speed.met is not False,
        before=before.name,
        after=after.name,
        speedup=comparison,
        parity=agreement,
        gates=(
            Gate(
                name="parity",
                met=None if pruned else agreement.passed,
                limit=tolerance,
                value=agreement.max_abs,
                note=PRUNED if pruned else "",
            ),
            speed,
        ),
        environment=environment,
    )


def _model_file(
    what: str, shape: str | None, path: Path, note: Callable[[str], None]
) -> tuple[Path, str]:
    """Return the ONNX file of `what`, exported to `path` where there is none yet, and its name."""
    if what.endswith(".onnx"):
        return Path(what), Path(what).name
    if what.endswith(".toml"):
        job = load_job(Path(what))
        model, data = load(job, Path(what).resolve().parent)
        inputs, name = data.example, job.name
    elif FACTORY.fullmatch(what):
        inputs, name = (torch.zeros(_sizes(shape)),), what
        model = call_factory(what, Path.cwd(), "model")
        if not isinstance(model, torch.nn.Module):
            raise UsageError(f"{what} returned a {type(model).__name__}, not a torch.nn.Module")
    else:
        raise UsageError(f"{what!r} is not a job.toml, an .onnx file or pkg.module:factory")
    note("exporting")
    export(model.eval(), inputs, path, opset=OPSET)
    return path, name


def _sizes(text: str | None) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in (text or "").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        what = (
            "a factory needs the shape of its input"
            if text is None
            else f"shape {text!r} cannot be read"
        )
        raise UsageError(what, "give --shape 1,3,224,224")
    return sizes
