"""The command line: parse, call, render, and map errors to exit codes."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError

from edgeprune.errors import (
    DONE,
    INTERRUPTED,
    EdgepruneError,
    GateError,
    UnstableError,
    UsageError,
)
from edgeprune.options import DEFAULT, Budget, Common, Device, Flag, Seed

BUG = 70
HELP = """Make a PyTorch model meet a budget on a device, and prove it there.

Exit codes: 0 done and every gate met; 1 a gate was not met; 2 usage or configuration;
3 device not reachable; 4 measurement unstable; 5 unsupported model; 124 timeout; 130 interrupted.
"""


def _version() -> str:
    from importlib.metadata import version

    return version("edgeprune")


app = App(
    name="edgeprune",
    help=HELP,
    version=_version,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@app.command
def devices(*, common: Common = DEFAULT) -> int:
    """List the known device profiles, and which of them can be used here now."""
    from edgeprune.devices.opening import roster

    rows = roster()
    _answer(
        common,
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
            (spec.name, spec.title, spec.figure, f"{o.why}; {o.help}" if o else spec.note)
            for spec, o in rows
        ]
    )
    return DONE


@app.command
def doctor(*, common: Common = DEFAULT) -> int:
    """Tell what this machine can do, and the command that adds what is missing."""
    from edgeprune.devices.diagnosis import diagnose

    checks = diagnose()
    _answer(common, {"schema": 1, "checks": [check._asdict() for check in checks]})
    common.console.checks([(check.what, check.ok, check.found, check.help) for check in checks])
    return DONE if all(check.ok for check in checks if check.needed) else 3


@app.command
def methods(*, common: Common = DEFAULT) -> int:
    """List every method: its kind, and whether it is available or planned."""
    from edgeprune.methods import listing

    rows = listing()
    _answer(common, {"schema": 1, "methods": rows})
    common.console.methods([(r["kind"], r["name"], r["status"], r["summary"]) for r in rows])
    return DONE


@app.command
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
    seed: Seed = None,
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
    seed:
        Of everything that is drawn.
    """
    import tempfile

    from edgeprune.devices.opening import open_device
    from edgeprune.inspection import differences, profile_anything, read_profile, write_outputs

    earlier = read_profile(against) if against else None
    console = common.console
    opened = open_device(device, console.warning)
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
            seed=seed or 0,
            note=stage.note,
        )
    document = found.model_dump(mode="json", by_alias=True)
    console.profile(found)
    for path in write_outputs(found, trace=trace, html=html):
        console.info(f"wrote {path}")
    _answer(common, document)
    if earlier:
        difference = differences(earlier, found, str(against))
        document["against"] = difference.model_dump(mode="json")
        console.difference(difference)
    if found.stopped == "unstable":
        console.error(UnstableError(*found.unsettled()))
        return UnstableError.exit_code
    return DONE


@app.command
def plan(
    job: Path, *, device: Device, budget: Budget = None, seed: Seed = None, common: Common = DEFAULT
) -> int:
    """Profile, price and allocate; change nothing.

    Parameters
    ----------
    job:
        The job file (job.toml).
    device:
        Name of a device profile, or the path of one.
    budget:
        Instead of the job's: "50%", "2x", "0.8ms", "1.2Minsn".
    seed:
        Instead of the job's.
    """
    from edgeprune.pipeline import plan_only

    console = common.console
    settings, model, data, opened = _prepare(job, device, budget, seed, common)
    found = plan_only(settings, model, data, opened, console)
    document = {
        "schema": 1,
        "job": settings.name,
        "device": opened.spec.name,
        "kind": opened.spec.figure,
        "unit": opened.spec.unit,
        "dense_cost": found.table.dense_cost,
        "budget": {"asked": settings.request.text, "limit": found.plan.budget},
        "widths": {name: [g.before, g.after] for name, g in found.plan.groups.items()},
        "criteria": {name: g.criterion for name, g in found.plan.groups.items()},
        "offered": found.table.widths,
        "predicted": {"cost": found.plan.predicted, "error": found.plan.predicted_error},
        "measured": found.plan.corrected,
        "gap": found.plan.gap,
        "digest": found.plan.digest,
        "rounds": [r.model_dump(mode="json") for r in found.plan.rounds],
        "skipped": [s.model_dump(mode="json") for s in found.groups.skipped],
    }
    _answer(common, document)
    console.plan(found.plan, found.table)
    return DONE


@app.command
def run(
    job: Path,
    *,
    device: Device,
    budget: Budget = None,
    out: Path | None = None,
    resume: Flag = False,
    seed: Seed = None,
    common: Common = DEFAULT,
) -> int:
    """Do the whole job and ship into deploy/<device>/<job>/.

    Parameters
    ----------
    job:
        The job file (job.toml).
    device:
        Name of a device profile, or the path of one.
    budget:
        Instead of the job's: "50%", "2x", "0.8ms", "1.2Minsn".
    out:
        The folder that receives the files, instead of deploy/<device>/<job>.
    resume:
        Go on where an earlier run of the same job stopped.
    seed:
        Instead of the job's.
    """
    from edgeprune import pipeline

    console = common.console
    here = Path.cwd()  # a factory may go elsewhere
    settings, model, data, opened = _prepare(job, device, budget, seed, common)
    folder = out or Path("deploy", opened.spec.name, settings.name)
    folder = folder if Path.cwd() == here else here / folder
    result = pipeline.run(settings, model, data, opened, folder, resume=resume, console=console)
    _answer(common, result.verdict.model_dump(mode="json", by_alias=True))
    console.verdict(result.verdict, out=folder)
    return DONE if result.verdict.passed else GateError.exit_code


@app.command
def verify(
    before: Path,
    after: Path,
    *,
    device: Device,
    tolerance: float = 1e-4,
    seed: Seed = None,
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
    seed:
        Of inputs and order.
    """
    from edgeprune.devices.opening import open_device
    from edgeprune.inspection import compare_files

    console = common.console
    opened = open_device(device, console.warning)
    with console.stage(f"Comparing on {opened.spec.name}") as stage:
        found = compare_files(
            before, after, opened, tolerance=tolerance, seed=seed or 0, note=stage.note
        )
    _answer(common, {"schema": 1, **found.model_dump(mode="json")})
    console.comparison(
        found.speedup, found.parity, found.before, found.after, found.kind, found.unit, found.gates
    )
    return DONE if found.passed else GateError.exit_code


@app.command
def report(run_dir: Path, *, common: Common = DEFAULT) -> int:
    """Write report.html of a finished run again.

    Parameters
    ----------
    run_dir:
        The folder that `edgeprune run` shipped to.
    """
    from edgeprune.ship import rewrite_report

    path = rewrite_report(run_dir)
    _answer(common, {"schema": 1, "report": str(path)})
    common.console.info(f"wrote {path}")
    return DONE


def _prepare(
    job: Path, device: str, budget: str | None, seed: int | None, common: Common
) -> tuple[Any, Any, Any, Any]:
    """Load everything a job names; cheap faults are told before torch is imported."""
    from edgeprune.devices.spec import load_spec
    from edgeprune.job import load_job

    settings = load_job(job).with_overrides(budget=budget, seed=seed)
    _ = settings.request
    load_spec(device)
    from edgeprune.devices.opening import open_device
    from edgeprune.pipeline import load

    opened = open_device(device, common.console.warning)
    model, data = load(settings, job.resolve().parent)
    return settings, model, data, opened


_documents: list[dict[str, Any]] = []


def _answer(common: Common, document: dict[str, Any]) -> None:
    if common.json:
        _documents.append(document)


def execute(arguments: Sequence[str]) -> int:
    """Carry out a command line and return its exit code."""
    _documents.clear()
    wants_json = any(a.partition("=")[0] == "--json" for a in arguments)
    verbose = "-v" in arguments or "--verbose" in arguments
    from edgeprune.report.console import guarded_stdout

    with guarded_stdout(wants_json) as stdout:
        code = _execute(list(arguments), verbose)
        for document in _documents:
            json.dump(document, stdout, allow_nan=False)
            stdout.write("\n")
            stdout.flush()
    return code


def _execute(arguments: list[str], verbose: bool) -> int:
    from edgeprune.report.console import Console

    console = Console(verbose=verbose)
    try:
        code = app(arguments or ["--help"], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        console.error(UsageError(str(error).strip(), "edgeprune --help"))
        return UsageError.exit_code
    except EdgepruneError as error:
        if verbose:
            traceback.print_exc()
        console.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        console.error("interrupted; with --resume, profile and run go on from what is finished")
        return INTERRUPTED
    except OSError as error:
        if verbose:
            traceback.print_exc()
        console.error(UsageError(f"{error.filename or 'file'}: {error.strerror or error}"))
        return UsageError.exit_code
    except Exception:  # noqa: BLE001 - the outermost frame: anything here is a bug of edgeprune's
        traceback.print_exc()
        console.error("this is a bug in edgeprune; please report it with the traceback above")
        return BUG
    return code if isinstance(code, int) else DONE


def main() -> None:
    """Run the command line of this process."""
    sys.exit(execute(sys.argv[1:]))
