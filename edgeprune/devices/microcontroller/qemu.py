"""Firmware in qemu-system-arm with a counting plugin: every core, also Cortex-M55 with MVE."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from edgeprune.devices.microcontroller.emulate import overdue
from edgeprune.devices.microcontroller.emulation import (
    FAULT,
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
from edgeprune.errors import DeviceError
from edgeprune.records import Microcontroller

PROGRAM = "qemu-system-arm"
INSTALL = "apt-get install qemu-system-arm gcc"
ADDRESS = re.compile(r"fault at 0x([0-9a-f]{8})")


def emulate(chip: Microcontroller, jobs: Sequence[Job], seconds: float) -> list[Outcome]:
    """Run `jobs` one after the other; nothing is left behind, however it ends.

    Raises:
        DeviceError: a firmware fails, or the emulator.
        DeadlineError: one does not end within `seconds`.
    """
    outcomes = []
    for job in jobs:
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            folder = Path(scratch, "job")
            prepare(job, folder)
            outcomes.append(_run(chip, job, folder, seconds))
    return outcomes


def _run(chip: Microcontroller, job: Job, folder: Path, seconds: float) -> Outcome:
    command = [
        PROGRAM, "-machine", chip.machine, "-display", "none", "-monitor", "none",
        "-serial", "none", "-semihosting-config", "enable=on,target=native",
        "-kernel", str(job.firmware.image.path),
    ]  # fmt: skip
    if job.counted:
        plugin = host_library("qemu_counter.c", f"-DPLUGIN_VERSION={_plugin_version()}")
        command += ["-plugin", f"{plugin},table=table,counts=counts"]
    try:
        with on_time([job], [folder]):
            done = run(command, folder, seconds, tethered=True)
    except subprocess.TimeoutExpired:
        raise overdue([job], seconds) from None
    said = done.stdout + done.stderr
    if done.code == FAULT or "Lockup" in said:
        found = ADDRESS.search(said)
        reason = "" if found else "a fault while handling a fault"
        raise failure(job, FAULT, reason, int(found[1], 16) if found else None)
    if done.code < 0:
        raise DeviceError(f"{job.name}: {PROGRAM} was ended by signal {-done.code}")
    if done.code != 0:
        raise failure(job, done.code, done.last_line, None)
    return collect(job, folder)


def emulator_obstacle() -> Obstacle | None:
    """Return what keeps qemu from running here, or None."""
    if shutil.which(PROGRAM) is None:
        return Obstacle(f"{PROGRAM} is not installed", INSTALL)
    if not host_compiler():
        return Obstacle("no C compiler for this machine, which the counter needs", INSTALL)
    return None


def emulator_version() -> str:
    """Return name and version of the emulator."""
    return f"qemu {'.'.join(map(str, _version()))}"


@cache
def _version() -> tuple[int, int, int]:
    done = subprocess.run(
        [PROGRAM, "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", done.stdout)
    if found is None:
        raise DeviceError(f"{PROGRAM} does not tell its version", INSTALL)
    return int(found[1]), int(found[2]), int(found[3])


def _plugin_version() -> int:
    """Return the version of the plugin interface to declare: qemu 9.0 dropped the first."""
    return 2 if _version() >= (9, 0, 0) else 1
