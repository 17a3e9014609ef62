"""Commands that work on a job: plan, run, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeprune.errors import DONE, GateError
from edgeprune.options import DEFAULT, Budget, Common, Device, Files, Flag

if TYPE_CHECKING:
    from edgeprune.devices.protocol import Device as Opened
    from edgeprune.job import Job
    from edgeprune.pipeline import Planned


def plan(job: Path, *, device: Device, budget: Budget = None, common: Common = DEFAULT) -> int:
    """Profile, price and allocate; change nothing.

    Parameters
    ----------
    job:
        The job file (job.toml).
    device:
        Name of a device profile, or the path of one.
    budget:
        Instead of the job's: "50%", "2x", "0.8ms", "1.2Minsn"; several with commas.
    """
    console = common.console
    budgets = budgets_of(budget)
    settings, model, data, opened = prepare(job, device, budgets[0], common)
    from edgeprune.pipeline import Planned, plan_only

    if several := [text for text in budgets if text and len(budgets) > 1]:
        from tempfile import TemporaryDirectory

        from edgeprune import family

        with TemporaryDirectory(prefix="edgeprune-") as scratch:
            prices, members = family.plan_only(
                settings, several, model, data, opened, Path(scratch), console
            )
        plans = [
            (one, Planned(prices.groups, prices.dense, prices.table, chosen))
            for one, chosen in members
        ]
        documents = [_document(one, opened, planned) for one, planned in plans]
        whole = {"schema": 1, "job": settings.name, "device": opened.spec.name}
        common.answer({**whole, "members": documents})
        for one, planned in plans:
            console.info(f"budget {one.budget.asked}")
            console.plan(planned.plan, planned.table, planned.skipped)
        return DONE
    found = plan_only(settings, model, data, opened, console)
    common.answer(_document(settings, opened, found))
    console.plan(found.plan, found.table, found.skipped)
    return DONE


def run(
    job: Path,
    *,
    device: Device,
    budget: Budget = None,
    out: Path | None = None,
    importance: Files = None,
    merge: Literal["mean", "rank"] = "mean",
    resume: Flag = False,
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
        Instead of the job's: "50%", "2x", "0.8ms", "1.2Minsn". Several, as in "70%,50%,30%", make a
        family: each model starts from the one before and ships into a folder of its own.
    out:
        The folder that receives the files, instead of deploy/<device>/<job>.
    importance:
        Files of scores of data holders (edgeprune importance), instead of scores from own data.
    merge:
        How several of them are merged: mean, weighted by samples, or rank.
    resume:
        Go on where an earlier run of the same job stopped.
    """
    from edgeprune import pipeline

    console = common.console
    here, beside = Path.cwd(), job.resolve().parent  # a factory may go elsewhere
    budgets = budgets_of(budget)
    settings, model, data, opened = prepare(job, device, budgets[0], common)
    folder = out or Path("deploy", opened.spec.name, settings.name)
    folder = folder if Path.cwd() == here else here / folder
    files = [path if path.is_absolute() else here / path for path in importance or ()]
    given = pipeline.load_given(settings, beside, files, merge)
    if several := [text for text in budgets if text and len(budgets) > 1]:
        from edgeprune import family

        made = family.run(
            settings,
            several,
            model,
            data,
            opened,
            folder,
            resume=resume,
            console=console,
            given=given,
        )
        common.answer(made.document())
        for member in made.members:
            console.verdict(member.verdict, out=member.folder, alone=member.alone)
        return DONE if made.passed else GateError.exit_code
    result = pipeline.run(
        settings, model, data, opened, folder, resume=resume, console=console, given=given
    )
    common.answer(result.verdict.model_dump(mode="json", by_alias=True))
    console.verdict(result.verdict, out=folder, alone=result.alone)
    return DONE if result.verdict.passed else GateError.exit_code


def sensitivity(job: Path, *, device: Device, common: Common = DEFAULT) -> int:
    """Show what cutting each group alone to each of its widths costs in loss and metric.

    Finished groups are kept by content: an interrupted measurement goes on, a repeated one is read.

    Parameters
    ----------
    job:
        The job file (job.toml).
    device:
        Name of a device profile, or the path of one: its staircase says which widths are worth it.
    """
    from edgeprune.importance.sensitivity import agreement, best_curves
    from edgeprune.previews import curve_samples, sensitivity_only

    settings, model, data, opened = prepare(job, device, None, common, budget_needed=False)
    found, rankings = sensitivity_only(settings, model, data, opened, common.console)
    chosen = best_curves(found.curves)
    agreed = agreement(chosen)
    common.answer(
        {
            "schema": 1,
            "job": settings.name,
            "device": opened.spec.name,
            "metric": data.metric_name,
            "samples": curve_samples(settings, data),
            "rank_agreement": agreed,
            "chosen": {name: curve.criterion for name, curve in chosen.items()},
            "curves": [curve.model_dump(mode="json") for curve in found.curves],
        }
    )
    measured = settings.prune.loss == "sensitivity"
    common.console.sensitivity(
        found.curves, chosen, data.metric_name, rankings, agreed=agreed, measured=measured
    )
    return DONE


def importance(job: Path, *, out: Path, common: Common = DEFAULT) -> int:
    """Score channels on the job's own data, for a run elsewhere that merges such scores.

    The file holds the scores and what they are of; no data leaves the machine.

    Parameters
    ----------
    job:
        The job file (job.toml).
    out:
        The file that receives the scores (.safetensors).
    """
    from edgeprune.job import load_job
    from edgeprune.pipeline import load
    from edgeprune.previews import score

    here = Path.cwd()
    settings = load_job(job).with_overrides(seed=common.seed)
    model, data = load(settings, job.resolve().parent)
    path = out if out.is_absolute() else here / out
    origin = score(settings, model, data, path, common.console)
    common.answer({"schema": 1, "scores": str(out), **origin.model_dump(mode="json")})
    groups = f"{len(origin.groups)} groups, {sum(origin.groups.values())} channels"
    common.console.info(
        f"wrote {out}: {', '.join(origin.criteria)} of {groups}, from {origin.samples} samples"
    )
    return DONE


def report(run_dir: Path, *, common: Common = DEFAULT) -> int:
    """Write report.html of a finished run again, or draw kept experiments.

    Parameters
    ----------
    run_dir:
        The folder that `edgeprune run` shipped to; or a file of trials (JSON), whose page is
        written beside it.
    """
    if run_dir.is_file():
        from edgeprune.bench.trials import draw

        path = draw(run_dir)
    else:
        from edgeprune.ship import rewrite_report

        path = rewrite_report(run_dir)
    common.answer({"schema": 1, "report": str(path)})
    common.console.info(f"wrote {path}")
    return DONE


def _document(settings: Job, opened: Opened, found: Planned) -> dict[str, Any]:
    """Return the answer of `plan --json` for one budget."""
    why = found.plan.explanation
    return {
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
        "allocation": found.plan.allocation,
        "front": [point.model_dump(mode="json") for point in found.plan.front],
        "resources": [r.model_dump(mode="json") for r in found.plan.resources],
        "held_by": found.plan.held_by,
        "unheeded": found.plan.unheeded,
        "loss": {"summed": found.plan.loss, "whole": found.plan.whole_loss},
        "losses": found.plan.losses,
        "removed": [block.last for block in found.plan.removed],
        "explanation": why.model_dump(mode="json") if why else None,
        "digest": found.plan.digest,
        "rounds": [r.model_dump(mode="json") for r in found.plan.rounds],
        "trials": [t.model_dump(mode="json") for t in found.plan.trials],
        "skipped": [group.model_dump(mode="json") for group in found.skipped],
    }


def budgets_of(text: str | None) -> tuple[str | None, ...]:
    """Return the budgets in "70%,50%,30%"; a single None where none is given.

    Raises:
        UsageError: one cannot be read, or is named twice, be it in other words ("50%,2x").
    """
    from edgeprune.budget import parse_budget, same_budget
    from edgeprune.errors import UsageError

    if text is None:
        return (None,)
    budgets = tuple(part.strip() for part in text.split(","))
    asked = [parse_budget(budget) for budget in budgets]
    for number, one in enumerate(asked):
        for other in asked[:number]:
            if same_budget(one, other):
                same = (
                    "" if one.text == other.text else f": {other.text} and {one.text} are the same"
                )
                raise UsageError(f"--budget {text}: a budget is named twice{same}")
    return budgets


def prepare(
    job: Path,
    device: str,
    budget: str | None,
    common: Common,
    *,
    budget_needed: bool = True,
) -> tuple[Any, Any, Any, Any]:
    """Load everything a job names; cheap faults are told before torch is imported."""
    from edgeprune.devices.spec import load_spec
    from edgeprune.job import load_job

    settings = load_job(job).with_overrides(budget=budget, seed=common.seed)
    if budget_needed:
        _ = settings.request
    load_spec(device)
    from edgeprune.devices.opening import open_device
    from edgeprune.pipeline import load

    opened = open_device(device, common.console.warning)
    model, data = load(settings, job.resolve().parent)
    return settings, model, data, opened
