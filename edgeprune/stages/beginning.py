"""How a run begins: what can be told without work, its folder, its prepared model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from edgeprune.data import Data
from edgeprune.devices.kept import ResumedDevice
from edgeprune.devices.protocol import Device
from edgeprune.identity import identity_of
from edgeprune.job import Job
from edgeprune.loading import seed_everything
from edgeprune.records import ModelProfile
from edgeprune.report.console import Console
from edgeprune.stages import base, steps
from edgeprune.stages.preparing import prepared
from edgeprune.store import RunFolder


@contextmanager
def begun(
    job: Job,
    model: nn.Module,
    data: Data,
    device: Device,
    out: Path,
    console: Console,
    *,
    budgets: Sequence[str] = (),
    resume: bool = False,
    given: base.Given | None = None,
    scratch: bool = False,
) -> Iterator[base.Run]:
    """Check the job, hold the run folder in `out`, and yield the run for the first of `budgets`.

    Without `budgets` it is for the job's own; its model is prepared. Whatever can be told without
    work is told before `out` is touched. A `scratch` folder goes at the end, and is never resumed:
    what its results depend on is not looked at.
    """
    seed_everything(job.seed)
    given = given or base.Given()
    jobs = [job.with_overrides(budget=budget) for budget in budgets] or [job]
    for one in jobs:
        one.request.limit(1.0, device.spec.unit)
        steps.check(one, model, data, given)
    identity: dict[str, str] = {}
    if not scratch:
        identity = identity_of(jobs[0], model, data, device) | given.identity()
        if budgets:
            identity["budget"] = ", ".join(sorted(budgets))
    seed_everything(job.seed)  # looking at data may have drawn: `plan` finds what `run` does
    with RunFolder(out, identity, resume=resume, warn=console.warning) as folder:
        here = _as_it_began(device, folder)
        yield prepared(base.Run(jobs[0], model, data, here, folder, console, given=given))


def _as_it_began(device: Device, folder: RunFolder) -> Device:
    """Return `device`, held to the environment of the run's first profile if it is resumed."""
    for stage in ("0-profile", "2-profile"):
        if profile := folder.load(stage, ModelProfile):
            return ResumedDevice(device, profile.environment)
    return device
