"""The job from Python, for a model and data that are in memory already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.devices.opening import open_device
from edgeprune.devices.protocol import Device
from edgeprune.fitting import check_inputs_kept, check_judges, check_runs
from edgeprune.job import job_of
from edgeprune.loading import check_finite
from edgeprune.pipeline import Result, run
from edgeprune.report.console import Console
from edgeprune.stages import base


def slim(
    model: nn.Module,
    data: Data,
    *,
    device: str | Path | Device = "mobile_cpu",
    latency: str = "50%",
    max_accuracy_drop: float = 0.01,
    out: str | Path | None = None,
    name: str = "model",
    seed: int = 0,
    quiet: bool = True,
    initial: Mapping[str, Tensor] | None = None,
    **sections: Any,
) -> Result:
    """Make `model` meet a latency budget on a device and ship it.

    Args:
        model: a module in eval mode; it is not changed.
        data: see `edgeprune.Data`.
        device: name of a device profile, path of one, or an opened device.
        latency: "50%", "2x", "0.8ms" or "1.2Minsn".
        max_accuracy_drop: absolute, of the metric.
        out: folder to ship to; deploy/<device>/<name> by default.
        name: of the job.
        seed: of everything that is drawn.
        quiet: whether to keep progress from stderr; warnings are told all the same.
        initial: state of the model before it was trained, for schedule `lottery`.
        sections: `prune`, `schedule`, `recover` and the others, as in a job file.

    Returns:
        The slim model, its file, its verdict and its plan.

    Raises:
        EdgepruneError: with a message that says what to do.
    """
    console = Console(quiet=quiet)
    opened = open_device(str(device), console.warning) if isinstance(device, str | Path) else device
    job = job_of(
        {
            "name": name,
            "seed": seed,
            "model": {"factory": "in_memory:model"},
            "data": {"factory": "in_memory:data"},
            "budget": {"latency": latency, "max_accuracy_drop": max_accuracy_drop},
            **sections,
        },
        "edgeprune.slim",
    )
    check_finite(model)
    data.check()
    data = data.guarded()
    check_inputs_kept(model.eval(), data)
    check_runs(model, data)
    check_judges(model, data)
    folder = Path(out) if out is not None else Path("deploy", opened.spec.name, name)
    given = base.Given(initial=initial)
    return run(job, model, data, opened, folder, console=console, given=given)
