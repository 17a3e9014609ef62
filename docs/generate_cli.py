"""Write docs/cli.md from the help of the command line itself.

make docs                               write it
python docs/generate_cli.py --check     exit with 1 if it is out of date
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
COMMAND = re.compile(r"^[│|]\s(?P<name>[a-z][a-z-]*)\s", re.MULTILINE)
HEADER = """\
# Command line

This page is written by `make docs` from the help of the program; do not edit it.
`python -m edgeprune` is the same program.

## Exit codes

| code | meaning |
|---|---|
| 0 | done, and every gate was met |
| 1 | a gate is not met: parity, accuracy, budget (or no plan can reach it), speed-up not proven |
| 2 | usage or configuration |
| 3 | the device cannot be reached |
| 4 | the measurement is unstable |
| 5 | the model is not supported; the message says which layer and why |
| 70 | a bug of edgeprune; its traceback is shown |
| 124 | the time allowed ran out |
| 130 | interrupted |

## Standard output and standard error

Tables, verdicts, progress, warnings and errors go to standard error, and standard output stays
empty: to keep or page what a command shows, redirect it (`edgeprune methods 2>&1 | less`). Only
`--help` and `--version` answer on standard output.

With `--json`, standard output holds one JSON document with the results, and standard error shows
the same as without; `--quiet` leaves results, warnings and errors of it. What was found out has its
document, also where the exit code is not 0: a gate that is not met (1), a profile that did not
settle (4), something missing (`doctor`, 3). A command that ends with any other error leaves
standard output empty.
"""


def help_of(*command: str) -> str:
    """Return the help text of a command, 100 columns wide, without colours."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CLICOLOR_FORCE")
    }
    environment |= {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "edgeprune", *command, "--help"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        sys.exit(
            f"edgeprune {' '.join(command)} --help: exit code {done.returncode}\n{done.stderr}"
        )
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def page() -> str:
    """Return the text of docs/cli.md."""
    top = help_of()
    names = list(dict.fromkeys(COMMAND.findall(top)))
    if not names:
        sys.exit(f"no command was found in the help of edgeprune:\n{top}")
    parts = [HEADER, section("edgeprune", top)]
    parts += [section(f"edgeprune {name}", help_of(name)) for name in names]
    return "\n".join(parts)


def section(title: str, text: str) -> str:
    """Return one section of the page."""
    return f"## {title}\n\n```text\n{text}\n```\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/cli.md from the help of edgeprune.")
    parser.add_argument(
        "--check", action="store_true", help="compare only; exit with 1 if it differs"
    )
    check = parser.parse_args().check
    new = page()
    old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        sys.stderr.writelines(
            difflib.unified_diff(
                old.splitlines(True), new.splitlines(True), "docs/cli.md", "edgeprune --help"
            )
        )
        print("docs/cli.md is out of date: run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
