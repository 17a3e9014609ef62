"""Commands that work on a job: plan, run, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.errors import DONE, GateError
from edgeprune.options import DEFAULT, Budget, Common, Device, Flag, Seed


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
        "budget": {"asked": settings.budget.asked, "limit": found.plan.budget},
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
    common.answer(document)
    console.plan(found.plan, found.table)
    return DONE


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
    common.answer(result.verdict.model_dump(mode="json", by_alias=True))
    console.verdict(result.verdict, out=folder)
    return DONE if result.verdict.passed else GateError.exit_code


def report(run_dir: Path, *, common: Common = DEFAULT) -> int:
    """Write report.html of a finished run again, or draw kept experiments.

    Parameters
    ----------
    run_dir:
        The folder that `edgeprune run` shipped to; or a file of trials (JSON), whose page is
        written beside it.
    """
    if run_dir.is_file():
        from edgeprune.trials import draw

        path = draw(run_dir)
    else:
        from edgeprune.ship import rewrite_report

        path = rewrite_report(run_dir)
    common.answer({"schema": 1, "report": str(path)})
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
