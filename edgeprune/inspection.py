"""Looks at models outside a job: profile anything, compare any two files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from edgeprune.devices.kept import keep
from edgeprune.devices.protocol import Device
from edgeprune.errors import UsageError
from edgeprune.export.onnx_graph import describe, export, require_valid, weight_shapes
from edgeprune.export.precision import Precision
from edgeprune.export.segments import read_graph
from edgeprune.export.shapes import fix_shapes, with_names
from edgeprune.job import load_job
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.timing import compare
from edgeprune.records import (
    Comparison,
    DeviceSpec,
    Environment,
    Gate,
    Kind,
    LayerDifference,
    ModelProfile,
    Parity,
    ProfileDifference,
    Record,
    Shape,
    Unit,
)
from edgeprune.report.profile_page import render
from edgeprune.report.trace import chrome_trace, require_times
from edgeprune.sections import FACTORY
from edgeprune.store import require_writable, write_text
from edgeprune.verify.files import file_parity
from edgeprune.verify.gates import speed_gate
from edgeprune.verify.inference import numeric_device

OPSET = 20
PLAN = "edgeprune.plan"
PRUNED = "not a gate: one file is pruned and the other is not, so their outputs differ"


class FileComparison(Record):
    """Two files against each other: `speedup` is cost before / cost after, with its interval.

    `note` is what a reader of the costs must know of the device.
    """

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
    note: str = ""


def profile_anything(
    what: str,
    device: Device,
    scratch: Path,
    *,
    shapes: Sequence[str] = (),
    seconds: float = 4.0,
    resume: bool = False,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
) -> ModelProfile:
    """Profile a job.toml, an .onnx file, or pkg.module:factory with inputs of the given `shapes`.

    What is measured is kept until the profile is whole; `resume` uses what an earlier call left.
    Where nothing can be kept, `warn` is told.

    Raises:
        UsageError: `what` is none of these, or a factory comes without a shape.
        UnsupportedModelError: the model cannot be exported or run.
        ResumeError: what is kept was measured in another environment.
    """
    path, name = _model_file(what, shapes, scratch, note)
    if not device.spec.computes_outputs:
        read_graph(path)  # which says what to do about shapes that are open
        require_valid(path)
    kept = keep(device, path, resume=resume, warn=warn)
    found = profile_model(kept or device, path, name=name, seconds=seconds, seed=seed, note=note)
    if kept:
        kept.forget()
    told = (device.spec.note,) if device.spec.note else ()
    return found.model_copy(update={"warnings": (*told, *found.warnings)})


def read_profile(path: Path) -> ModelProfile:
    """Return a profile that `edgeprune profile --json` wrote.

    Raises:
        UsageError: the file is not such a profile.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return ModelProfile.model_validate_json(text)
    except (ValidationError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"{path} is not a profile: {first}", f"edgeprune profile ... --json > {path.name}"
        ) from None


def differences(before: ModelProfile, after: ModelProfile, where: str) -> ProfileDifference:
    """Return what changed from one profile to another.

    Raises:
        UsageError: they were taken in different environments; lists every difference.
    """
    names = ("device", "kind", "unit")
    found = [
        f"{name}: {getattr(before, name)} against {getattr(after, name)}"
        for name in names
        if getattr(before, name) != getattr(after, name)
    ]
    found += before.environment.differences(after.environment)
    if found:
        raise UsageError(
            f"{where} cannot be compared with this profile:\n  - " + "\n  - ".join(found),
            "measure both in the same environment",
        )
    old = {layer.name: layer for layer in before.layers}
    new = {layer.name: layer for layer in after.layers}
    rows = []
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        apart = a is None or b is None or a.high < b.low or b.high < a.low
        rows.append(
            LayerDifference(
                name=name,
                before=a.cost if a else None,
                after=b.cost if b else None,
                changed=apart,
            )
        )
    return ProfileDifference(
        before=before.model,
        after=after.model,
        unit=after.unit,
        total_before=before.total,
        total_after=after.total,
        ratio=after.total / before.total if before.total else None,
        changed=before.total_high < after.total_low or after.total_high < before.total_low,
        layers=tuple(rows),
    )


def require_outputs(spec: DeviceSpec, *, trace: Path | None, html: Path | None) -> None:
    """Make sure that the files can be written that are asked for, before anything is measured.

    Raises:
        UsageError: a trace of a device whose figures are not times.
        OutputError: a file cannot be written.
    """
    if trace:
        require_times(spec.name, spec.unit)
    for path in (trace, html):
        if path:
            require_writable(path)


def write_outputs(profile: ModelProfile, *, trace: Path | None, html: Path | None) -> None:
    """Write the trace and the page that were asked for.

    Raises:
        UsageError: a trace of a device whose figures are not times.
        OutputError: a file cannot be written.
    """
    if trace:
        write_text(trace, chrome_trace(profile))
    if html:
        write_text(html, render(profile))


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

    Parity is a gate unless the files are of different plans and their weights differ in shape.

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
    plans = [artifact.metadata.get(PLAN) for _, artifact in (first, second)]
    # Metadata alone proves nothing: it can be lost, or be of another file.
    pruned = plans[0] != plans[1] and weight_shapes(before) != weight_shapes(after)
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
                limit=agreement.limit,
                value=agreement.max_abs,
                note=PRUNED if pruned else agreement.note,
            ),
            speed,
        ),
        environment=environment,
        note=spec.note,
    )


def _model_file(
    what: str, shapes: Sequence[str], scratch: Path, note: Callable[[str], None]
) -> tuple[Path, str]:
    """Return the ONNX file of `what`, written into `scratch` if need be, and its name.

    A job's model is in the precision in which the job runs it.
    """
    sizes = _sizes(shapes)
    if what.endswith(".onnx"):
        file = Path(what)
        copy = scratch / file.name  # messages name it
        return (fix_shapes(file, sizes, copy) if sizes else with_names(file, copy)), file.name
    import torch

    from edgeprune.fitting import check_inputs_kept, check_runs
    from edgeprune.loading import call_factory, load_data, load_model

    precision = Precision()
    if what.endswith(".toml"):
        job, folder = load_job(Path(what)), Path(what).resolve().parent
        model, data = load_model(job, folder), load_data(job, folder)
        check_inputs_kept(model, data)
        check_runs(model, data)
        inputs, name, precision = data.example, job.name, Precision.of(job, data)
    elif FACTORY.fullmatch(what):
        if not sizes:
            raise UsageError("a factory needs the shape of its input", "give --shape 1,3,224,224")
        inputs, name = tuple(torch.zeros(size) for size in sizes.values()), what
        model = call_factory(what, Path.cwd(), "model")
        if not isinstance(model, torch.nn.Module):
            raise UsageError(f"{what} returned a {type(model).__name__}, not a torch.nn.Module")
    else:
        raise UsageError(f"{what!r} is not a job.toml, an .onnx file or pkg.module:factory")
    note("exporting")
    path = scratch / "model.onnx"
    export(model.eval(), inputs, path, opset=OPSET)
    precision.write(path)
    return precision.file(path), name


def _sizes(texts: Sequence[str]) -> dict[str, Shape]:
    """Return name of input -> shape; a shape without a name belongs to the only input, ""."""
    found: dict[str, Shape] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        try:
            sizes = tuple(int(part) for part in numbers.split(","))
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            raise UsageError(f"shape {text!r} cannot be read", "give --shape 1,3,224,224")
        if name in found:
            raise UsageError(
                f"two shapes for {f'input {name}' if name else 'one input'}",
                "with several inputs name each: --shape NAME=1,3,224,224",
            )
        found[name] = sizes
    return found
