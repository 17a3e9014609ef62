"""Processes that tests look for while they start and end by themselves."""

from __future__ import annotations

import signal
import time

import psutil


def interruptible() -> None:
    """Take interrupts, in a child before it begins: in the background a shell has them ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(process: psutil.Process) -> list[str]:
    """Return how a process was called; nothing where it has ended, or ends meanwhile."""
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


def wait_for_children(parent: int, word: str, seconds: float = 60.0) -> list[psutil.Process]:
    """Return the running descendants called with ``word``, as soon as there are any.

    Short-lived ones beside them (probes, compilers) come and go while they are looked at.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            descendants = psutil.Process(parent).children(recursive=True)
        except psutil.Error:
            descendants = []
        if found := [each for each in descendants if word in " ".join(command(each))]:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no process called with {word!r} within {seconds:g} s")


def wait_until_ended(processes: list[psutil.Process], seconds: float = 10.0) -> None:
    """Fail unless every process ends; one that only waits to be reaped has ended."""
    until = time.monotonic() + seconds
    while (left := [each for each in processes if command(each)]) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []
