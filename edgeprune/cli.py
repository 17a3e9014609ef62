"""The command line: parse, call a command, and map errors to exit codes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from edgeprune.commands import benching, jobs, looks
from edgeprune.errors import (
    DONE,
    INTERRUPTED,
    EdgepruneError,
    LostDeviceError,
    OutputError,
    UsageError,
)
from edgeprune.options import answers

BUG = 70
RESUMABLE = ("bench", "profile", "run")  # keep what is finished
REPEATABLE = ("plan", "sensitivity")  # have no --resume; curves are kept by content
HELP = """Make a PyTorch model meet a budget on a device, and prove it there.

Exit codes: 0 done and every gate met; 1 a gate was not met; 2 usage or configuration;
3 device not reachable; 4 measurement unstable; 5 unsupported model; 70 a bug of edgeprune;
124 timeout; 130 interrupted.
"""


def _version() -> str:
    from importlib.metadata import version

    return version("edgeprune")


app = App(
    name="edgeprune",
    help=HELP,
    version=_version,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for command in (
    *(looks.devices, looks.doctor, looks.methods, looks.profile, looks.verify),
    *(jobs.plan, jobs.run, benching.bench, jobs.report, jobs.importance, jobs.sensitivity),
):
    app.command(command)


def execute(arguments: Sequence[str]) -> int:
    """Carry out a command line and return its exit code."""
    answers.clear()
    wants_json = any(a.partition("=")[0] == "--json" for a in arguments)
    verbose = "-v" in arguments or "--verbose" in arguments
    from edgeprune.report.console import guarded_stdout

    with guarded_stdout(wants_json) as stdout:
        code = _execute(list(arguments), verbose)
        for document in answers:
            json.dump(document, stdout, allow_nan=False)
            stdout.write("\n")
            stdout.flush()
    return code


def _execute(arguments: list[str], verbose: bool) -> int:
    from edgeprune.report.console import Console

    console = Console(verbose=verbose)
    try:
        code = app(arguments or ["--help"], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        console.error(UsageError(str(error).strip(), "edgeprune --help"))
        return UsageError.exit_code
    except EdgepruneError as error:
        if verbose:
            traceback.print_exc()
        console.error(error)
        if isinstance(error, LostDeviceError) and arguments[0] in RESUMABLE:
            words = [word for word in arguments if word != "--resume"]
            again = shlex.join(["edgeprune", *words, "--resume"])
            console.line(f"  what is finished is kept; go on with: {again}")
        return error.exit_code
    except KeyboardInterrupt:
        console.error(_interrupted(arguments[0] if arguments else ""))
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        if verbose:
            traceback.print_exc()
        console.error(UsageError(f"{error.filename or 'file'}: {error.strerror or error}"))
        return UsageError.exit_code
    except Exception:  # noqa: BLE001 - the outermost frame: anything here is a bug of edgeprune's
        traceback.print_exc()
        console.error("this is a bug in edgeprune; please report it with the traceback above")
        return BUG
    return code if isinstance(code, int) else DONE


def _interrupted(command: str) -> str:
    """Return what is said where `command` was interrupted: how it goes on, if it can."""
    if command in RESUMABLE:
        return f"interrupted; with --resume, {command} goes on from what is finished"
    if command in REPEATABLE:
        return "interrupted; repeat the command: finished groups are kept"
    return "interrupted"


def main() -> None:
    """Run the command line of this process; a request to end it is taken as Ctrl-C is."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    closed = _open_standard_streams()
    if 1 in closed and any(a.partition("=")[0] == "--json" for a in sys.argv[1:]):
        print("error: --json needs an open standard output", file=sys.stderr)
        sys.exit(OutputError.exit_code)
    try:
        code = execute(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        code = OutputError.exit_code
        if not isinstance(error, BrokenPipeError):  # that is: whoever read the output has left
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
        for number in (1, 2):  # what Python still flushes at its end goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    sys.exit(code)


def _open_standard_streams() -> list[int]:
    """Open /dev/null for the standard streams that are closed, and return their numbers.

    Otherwise the next file that is opened would take the place of one, and receive its text.
    """
    closed = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            closed.append(number)
    if 1 in closed:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if 2 in closed:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    return closed
