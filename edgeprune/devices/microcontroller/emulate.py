"""Firmware in unicorn: Cortex-M4, M7 and M33, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeprune.devices.microcontroller.emulation import (
    Job,
    Outcome,
    collect,
    failure,
    on_time,
    prepare,
)
from edgeprune.devices.microcontroller.toolchain import host_compiler, host_library
from edgeprune.devices.processes import run
from edgeprune.devices.protocol import Obstacle
from edgeprune.errors import DeadlineError, DeviceError
from edgeprune.export.cmsis_nn import EXTRA
from edgeprune.records import Microcontroller

WORKER = Path(__file__).with_name("unicorn_worker.py")
CORES = ("cortex-m4", "cortex-m7", "cortex-m33")
MACHINE = "unicorn"  # its memory: deploy/microcontroller/unicorn.ld


def emulate(chip: Microcontroller, jobs: Sequence[Job], seconds: float) -> list[Outcome]:
    """Run `jobs` one after the other; nothing is left behind, however it ends.

    Raises:
        DeviceError: a firmware fails, or the emulator.
        DeadlineError: they do not end within `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        folders = [Path(scratch, str(index)) for index in range(len(jobs))]
        for job, folder in zip(jobs, folders, strict=True):
            prepare(job, folder)
        asked, answered = Path(scratch, "jobs.json"), Path(scratch, "results.json")
        library = str(host_library("unicorn_counter.c")) if any(j.counted for j in jobs) else None
        described = [_describe(job, folder) for job, folder in zip(jobs, folders, strict=True)]
        request = {"core": chip.cpu, "library": library, "jobs": described}
        asked.write_text(json.dumps(request), encoding="utf-8")
        try:
            with on_time(jobs, folders):
                done = run(
                    [sys.executable, "-I", str(WORKER), str(asked), str(answered)],
                    Path(scratch),
                    seconds,
                    tethered=True,
                )
        except subprocess.TimeoutExpired:
            raise overdue(jobs, seconds) from None
        if done.code != 0:
            raise DeviceError(f"the emulator unicorn failed: {done.last_line}", "edgeprune doctor")
        results = json.loads(answered.read_text(encoding="utf-8"))
        for job, result in zip(jobs, results, strict=False):
            if result["exit"] != 0:
                raise failure(job, result["exit"], result["fault"], result["address"])
        return [collect(job, folder) for job, folder in zip(jobs, folders, strict=True)]


def overdue(jobs: Sequence[Job], seconds: float) -> DeadlineError:
    """Return the error of jobs that did not end."""
    names = ", ".join(dict.fromkeys(job.name for job in jobs[:3]))
    return DeadlineError(
        f"{names}: the emulated firmware did not end within {seconds:.0f} s",
        "a smaller model or fewer samples; an endless loop in the firmware looks like this too",
    )


def emulator_obstacle() -> Obstacle | None:
    """Return what keeps unicorn from running here, or None."""
    for package in ("unicorn", "elftools"):
        if importlib.util.find_spec(package) is None:
            return Obstacle(f"the package {package} is not installed", EXTRA)
    if not host_compiler():
        return Obstacle("no C compiler for this machine, which the counter needs", EXTRA)
    return None


def emulator_version() -> str:
    """Return name and version of the emulator."""
    return f"unicorn {importlib.metadata.version('unicorn')}"


def _describe(job: Job, folder: Path) -> dict[str, object]:
    image = job.firmware.image
    bottom, end = image.symbols["__stack_bottom"], image.symbols["__bss_end"]
    return {
        "folder": str(folder),
        "image": str(image.path),
        "entry": image.symbols["_start"],
        "stack": image.symbols["__stack_top"],
        "segments": image.segments,
        "regions": [
            *((segment.address, segment.bytes, False) for segment in image.segments),
            (bottom, end - bottom, True),
        ],
    }
