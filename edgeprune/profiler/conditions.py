"""What disturbed a measurement: load of other programs, changes of speed, drift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.profiler.stats import Processes, drift, spread
from edgeprune.records import Environment

BUSY = 0.25  # processors
STOLEN = 0.05
APART = 0.10  # relative, slowest process against fastest
RISE = 0.05  # relative, second half of a process against the first
FIXED = ("performance", "unknown", "userspace")  # frequency governors that keep still


def warnings_about(
    processes: Processes, environments: Sequence[Environment], *, measured: bool
) -> tuple[str, ...]:
    """Return one sentence for each thing that makes the figures less sure than they look.

    `processes` holds the costs of whole runs process by process, in the order they were taken.
    """
    found = []
    apart = spread(processes)
    if len(processes) > 1 and apart > APART:
        found.append(
            f"the slowest process took {100 * apart:.0f} % longer than the fastest: the speed of "
            "the device changed, or other programs got in the way; ratios of models that run in "
            "turn (edgeprune verify) do not suffer from that, costs do"
        )
    rise = float(np.median([drift(process) for process in processes]))
    if abs(rise) > RISE:
        found.append(
            f"costs {'rose' if rise > 0 else 'fell'} by {100 * abs(rise):.0f} % while a process "
            "ran: frequency or temperature is not steady"
        )
    if not measured:
        return tuple(found)
    busy, stolen = _largest(environments, "others_busy"), _largest(environments, "stolen")
    if busy > BUSY:
        found.append(f"other programs kept {busy:.2f} processors busy meanwhile: close them")
    if stolen > STOLEN:
        found.append(f"the host of this virtual machine took away {stolen:.2f} processors")
    governors = {environment.facts.get("governor", "unknown") for environment in environments}
    for governor in sorted(governors.difference(FIXED)):
        found.append(
            f"frequency governor {governor} follows the load: set performance for steady figures"
        )
    return tuple(found)


def worst(environments: Sequence[Environment]) -> Environment:
    """Return the last environment, with the heaviest disturbance of all processes."""
    last = environments[-1]
    facts = dict(last.facts)
    for name in ("others_busy", "stolen"):
        if name in facts and facts[name] != "unknown":
            facts[name] = f"{_largest(environments, name):.2f}"
    return last.model_copy(update={"facts": facts})


def _largest(environments: Sequence[Environment], name: str) -> float:
    values = [environment.facts.get(name, "unknown") for environment in environments]
    return max((float(value) for value in values if value != "unknown"), default=0.0)
