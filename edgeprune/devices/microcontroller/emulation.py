"""What an emulator is given and what it brings back, whichever it is."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edgeprune.devices.microcontroller.build import Firmware
from edgeprune.devices.microcontroller.counting import Counts, read_counts, write_table
from edgeprune.errors import DeviceError

STATUS = struct.Struct("<3I")  # struct status of harness.h
FAULT, NO_FILES = 99, 98  # exit codes of harness.h
STOP = "stop"  # the file that main.c looks for after each sample
OVERRUN = 1  # bit of what the check says; the other is that of a kernel that refused


class Job(NamedTuple):
    """Firmware to run over `inputs`, the bytes of whole samples; `name` is for messages.

    After `seconds` it begins no further sample.
    """

    name: str
    firmware: Firmware
    inputs: bytes
    counted: bool
    seconds: float | None = None


class Outcome(NamedTuple):
    """What came out: bytes of each sample, deepest stack, scratch written, counts if asked for.

    `stopped` tells that time ran out; the first samples are there.
    """

    outputs: tuple[bytes, ...]
    stack_bytes: int
    scratch_bytes: int
    counts: Counts | None
    stopped: bool = False


def prepare(job: Job, folder: Path) -> None:
    """Write the files that the firmware and the counter read into the new `folder`."""
    folder.mkdir()
    (folder / "input").write_bytes(job.inputs)
    if job.counted:
        write_table(job.firmware, folder / "table")


@contextmanager
def on_time(jobs: Sequence[Job], folders: Sequence[Path]) -> Iterator[None]:
    """Have the firmware of each job stop after its own seconds, while the block runs."""
    timers = [
        threading.Timer(job.seconds, (folder / STOP).touch)
        for job, folder in zip(jobs, folders, strict=True)
        if job.seconds is not None
    ]
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join()  # or it could write into a folder that is being removed


def collect(job: Job, folder: Path) -> Outcome:
    """Read what the firmware wrote into `folder`.

    Raises:
        DeviceError: it wrote too little, or a canary was overwritten.
    """
    size = job.firmware.sources.output_bytes
    record = size + STATUS.size
    path = folder / "output"
    data = path.read_bytes() if path.exists() else b""
    if not data or len(data) % record:
        raise DeviceError(f"{job.name}: the firmware ended without an output")
    outputs, stacks, scratches = [], [], []
    for index, start in enumerate(range(0, len(data), record)):
        stack, broken, scratch = STATUS.unpack_from(data, start + size)
        if broken:
            what = (
                "a canary was overwritten in sample {}: the firmware wrote beyond its memory"
                if broken & OVERRUN
                else "a kernel of CMSIS-NN refused its arguments in sample {}"
            )
            raise DeviceError(
                f"{job.name}: {what.format(index)}",
                "its outputs and counts are not used; please report the model",
            )
        outputs.append(data[start : start + size])
        stacks.append(stack)
        scratches.append(scratch)
    counts = read_counts(job.firmware, folder / "counts") if job.counted else None
    stopped = (folder / STOP).exists()
    return Outcome(tuple(outputs), max(stacks), max(scratches), counts, stopped)


def failure(job: Job, code: int | None, fault: str, address: int | None) -> DeviceError:
    """Return what went wrong in words."""
    if code == NO_FILES:
        return DeviceError(f"{job.name}: the firmware could not read its input or write its output")
    place = f" in {job.firmware.image.where(address)}" if address is not None else ""
    reason = f": {fault}" if fault else ""
    if code is None or code == FAULT:
        return DeviceError(
            f"{job.name}: the firmware failed{place}{reason}",
            "memory that does not exist, or a stack that is too small; please report the model",
        )
    return DeviceError(f"{job.name}: the firmware ended with code {code}{reason}")
