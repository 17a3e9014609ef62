"""Start a program that ends with its parent: `python3 tether.py PARENT_PID PROGRAM ARGUMENTS...`.

An emulator may run for ever. Where its parent is killed and cannot end it, Linux does: the program
that takes this process's place keeps the signal that prctl(2), PR_SET_PDEATHSIG, asks for. The
parent has to wait for it in the thread that started it. Imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Replace this process by `command`, tied to the life of `parent`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before it could be tied to
        raise SystemExit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
