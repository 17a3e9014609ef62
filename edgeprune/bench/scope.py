"""What of a job takes part in a comparison: one cut to a cost on the device, and its recovery."""

from __future__ import annotations

from edgeprune.errors import UsageError
from edgeprune.job import Job
from edgeprune.records import DeviceSpec

LIMITS = ("macs", "parameters", "ram_kb", "flash_kb")


def require_cost(job: Job) -> None:
    """Make sure that the job gives a cost to compare at: other limits take no part.

    Raises:
        UsageError: it limits something else only.
    """
    if job.budget.latency is None:
        raise UsageError(
            f"bench compares at equal cost on the device, and job {job.name!r} limits none: it "
            f"asks for {job.budget.asked}",
            'give --budget 50% or [budget] latency = "50%"',
        )


def left_out(job: Job, spec: DeviceSpec) -> str:
    """Return the parts of a job, and of its board, that take no part, in words; "" for none.

    Limits besides the cost are among them: peers know of none, so that `exact` would be compared
    at another cost if it were held to more.
    """
    guards = {key: getattr(job.guards, key) for key in ("class_floor", "agreement")}
    parts = {
        "[schedule]": job.schedule.kind != "one_shot",
        "[regularise]": job.regularise is not None,
        **{f"[guards] {key}": limit is not None for key, limit in guards.items()},
        **{f"[budget] {key}": getattr(job.budget, key) is not None for key in LIMITS},
    }
    named = ", ".join(name for name, asked in parts.items() if asked)
    chip = spec.microcontroller
    limited = chip is not None and (chip.ram_kb is not None or chip.flash_kb is not None)
    board = "the memory of the board" if limited and job.export.precision == "int8" else ""
    return " and ".join(part for part in (named and f"{named} of the job", board) if part)
