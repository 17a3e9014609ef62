"""Commands that look: devices, doctor, methods, profile, verify."""

from __future__ import annotations

from pathlib import Path

from edgeprune.errors import DONE, GateError, UnstableError
from edgeprune.options import DEFAULT, Common, Device, Flag


def devices(*, common: Common = DEFAULT) -> int:
    """List the known device profiles, and which of them can be used here now."""
    from edgeprune.devices.opening import roster

    rows = roster()
    common.answer(
        {
            "schema": 1,
            "devices": [
                {
                    **spec.model_dump(mode="json"),
                    "available": obstacle is None,
                    "reason": obstacle.why if obstacle else "",
                    "help": obstacle.help if obstacle else "",
                }
                for spec, obstacle in rows
            ],
        },
    )
    common.console.devices(
        [
            (
                spec.name,
                spec.title,
                "functional only" if spec.functional_only else spec.figure,
                "; ".join(filter(None, (o.why, o.help) if o else ("ready", spec.note))),
            )
            for spec, o in rows
        ]
    )
    return DONE


def doctor(*, common: Common = DEFAULT) -> int:
    """Tell what this machine can do, and the command that adds what is missing.

    Ends with 3 where something is missing that every job needs.
    """
    from edgeprune.devices.diagnosis import diagnose

    checks = diagnose()
    common.answer({"schema": 1, "checks": [check._asdict() for check in checks]})
    common.console.checks([(check.what, check.ok, check.found, check.help) for check in checks])
    return DONE if all(check.ok for check in checks if check.needed) else 3


def methods(*, common: Common = DEFAULT) -> int:
    """List every method: its kind, and whether it is available or planned."""
    from edgeprune.methods import listing

    rows = listing()
    common.answer({"schema": 1, "methods": rows})
    common.console.methods([(r["kind"], r["name"], r["status"], r["summary"]) for r in rows])
    return DONE


def profile(
    what: str,
    *,
    device: Device,
    shape: list[str] | None = None,
    seconds: float = 4.0,
    against: Path | None = None,
    trace: Path | None = None,
    html: Path | None = None,
    resume: Flag = False,
    common: Common = DEFAULT,
) -> int:
    """Measure the cost and memory of every layer.

    Parameters
    ----------
    what:
        A job.toml, an .onnx file, or pkg.module:factory.
    device:
        Name of a device profile, or the path of one.
    shape:
        Shape of the input, such as 1,3,224,224: for pkg.module:factory, and for an .onnx file whose
        shapes are not fixed. With several inputs NAME=1,3,224,224, once for each.
    seconds:
        Time for the layers, after which the profile is taken as it is.
    against:
        Compare with an earlier profile (the output of --json); refused where environments differ.
    trace:
        Write one run as a trace that Perfetto and chrome://tracing open.
    html:
        Write one page with the roofline.
    resume:
        Use what an interrupted measurement of the same model on the same device left.
    """
    import tempfile

    from edgeprune.devices.opening import open_device
    from edgeprune.inspection import (
        differences,
        profile_anything,
        read_profile,
        require_outputs,
        write_outputs,
    )

    earlier = read_profile(against) if against else None
    console = common.console
    opened = open_device(device, console.warning)
    # A factory may go elsewhere: where the files belong is settled before.
    files = {
        "trace": trace.absolute() if trace else None,
        "html": html.absolute() if html else None,
    }
    require_outputs(opened.spec, **files)
    with (
        tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch,
        console.stage(f"Profiling {what} on {opened.spec.name}") as stage,
    ):
        found = profile_anything(
            what,
            opened,
            Path(scratch),
            shapes=shape or (),
            seconds=seconds,
            resume=resume,
            seed=common.seed or 0,
            note=stage.note,
            warn=console.warning,
        )
    document = found.model_dump(mode="json", by_alias=True)
    console.profile(found)
    common.answer(document)
    write_outputs(found, **files)
    for path in filter(None, (trace, html)):
        console.info(f"wrote {path}")
    if earlier:
        difference = differences(earlier, found, str(against))
        document["against"] = difference.model_dump(mode="json")
        console.difference(difference)
    if found.stopped == "unstable":
        console.error(UnstableError(*found.unsettled()))
        return UnstableError.exit_code
    return DONE


def verify(
    before: Path,
    after: Path,
    *,
    device: Device,
    tolerance: float = 1e-4,
    common: Common = DEFAULT,
) -> int:
    """Compare two ONNX files: parity on the same random inputs, and speed-up with its interval.

    Parameters
    ----------
    before:
        The ONNX file to compare with.
    after:
        The ONNX file that should be faster.
    device:
        Name of a device profile, or the path of one.
    tolerance:
        Largest difference of outputs, absolute, and relative to the largest output above 1.
    """
    from edgeprune.devices.opening import open_device
    from edgeprune.inspection import compare_files

    console = common.console
    opened = open_device(device, console.warning)
    with console.stage(f"Comparing on {opened.spec.name}") as stage:
        found = compare_files(
            before, after, opened, tolerance=tolerance, seed=common.seed or 0, note=stage.note
        )
    common.answer({"schema": 1, **found.model_dump(mode="json")})
    console.comparison(
        found.speedup,
        found.parity,
        found.before,
        found.after,
        found.kind,
        found.unit,
        found.gates,
        found.note,
    )
    return DONE if found.passed else GateError.exit_code
