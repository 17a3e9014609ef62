"""Workers, compilers and emulators as child processes that leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TETHER = Path(__file__).with_name("tether.py")
_running: set[subprocess.Popen[str]] = set()
_lock = threading.Lock()


class Done(NamedTuple):
    """How a child process ended: exit code (negative: signal), and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """The last line of the error output, or the exit code where there is none."""
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit code {self.code}"


def run(
    command: Sequence[str],
    folder: Path,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    *,
    tethered: bool = False,
) -> Done:
    """Run `command` in `folder` and wait for it.

    A `tethered` command ends even where this process is killed and cannot end it.

    Raises:
        subprocess.TimeoutExpired: it takes longer than `seconds`; it was ended.
    """
    tether = (sys.executable, "-I", str(TETHER), str(os.getpid())) if tethered else ()
    with subprocess.Popen(
        (*tether, *command),
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # so that its own children can be ended with it
    ) as process:
        with _lock:
            _running.add(process)
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        finally:
            with _lock:
                _running.discard(process)
            if process.poll() is None:
                _end(process)
    return Done(process.returncode, stdout, stderr)


def end_all() -> None:
    """End the children that other threads are waiting for."""
    with _lock:
        for process in _running:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:  # not yet waited for: the number is still its own
        os.killpg(process.pid, signal.SIGKILL)
