"""Starts the emulated Python: the command, its environment and the files that it sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgeprune.devices.arm64.cpus import cpuinfo, processors
from edgeprune.devices.arm64.place import Installation, home

SNAPSHOTS = "snapshots"
HERE = "/proc/self/cwd"  # names the scratch folder by a path that is always the same


class Started(NamedTuple):
    """A command, to be run in the scratch folder, and the whole environment that it gets."""

    command: list[str]
    environment: dict[str, str]


def emulate(
    installation: Installation,
    cpu: str,
    scratch: Path,
    arguments: Sequence[str],
    *,
    write_bytecode: bool = False,
) -> Started:
    """Return how to start the emulated Python with `arguments` in `scratch`.

    Its clock counts instructions (counter.c), and the readings are left in `scratch`/snapshots.
    Whatever could move the counts from run to run is taken from the program: random hashes, a
    second thread, the user's environment, and paths, since longer ones take longer to handle.
    """
    where = home()
    _system(installation, cpu, scratch / "system")
    (scratch / "site").symlink_to(where / installation.site)
    (scratch / "bytecode").symlink_to(where / installation.bytecode)
    environment = {
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # otherwise a thread of its own that reads the clock
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": f"{HERE}/site",
        "PYTHONPYCACHEPREFIX": f"{HERE}/bytecode",
        "TMPDIR": HERE,
    }
    if not write_bytecode:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    libraries = ":".join(str(where / folder) for folder in installation.libraries)
    if libraries:
        environment["LD_LIBRARY_PATH"] = libraries
    command = [
        str(where / installation.qemu),
        *("-cpu", cpu, "-L", "system", "-B", "0", "-U", "LD_LIBRARY_PATH"),
        *("-plugin", f"{where / installation.plugin},out={SNAPSHOTS}"),
        *("-0", f"/{installation.python}", f"system/{installation.python}"),
        *("-s", "-S", "-P"),  # nothing but its own library and PYTHONPATH
    ]
    return Started([*command, *arguments], environment)


def _system(installation: Installation, cpu: str, system: Path) -> None:
    """Make the folder whose files stand in for those of this machine under the same path."""
    root = home() / installation.root
    (system / "proc").mkdir(parents=True)
    (system / "proc" / "cpuinfo").write_text(cpuinfo(cpu), encoding="utf-8")
    seen = system / "sys" / "devices" / "system" / "cpu"
    seen.mkdir(parents=True)
    for name in ("possible", "present"):
        (seen / name).write_text(f"0-{processors() - 1}\n", encoding="utf-8")
    (system / "usr").symlink_to(root / "usr")
    # Newer packages hold their libraries under usr/ alone.
    (system / "lib").symlink_to(root / "lib" if (root / "lib").is_dir() else root / "usr" / "lib")
