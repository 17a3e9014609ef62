"""Starts the emulated Python: the command, its environment and the files that it sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgeprune.devices.arm64.cpus import cpuinfo, processors
from edgeprune.devices.arm64.place import Installation, home


class Started(NamedTuple):
    """A command and the whole environment that it gets."""

    command: list[str]
    environment: dict[str, str]


def emulate(
    installation: Installation,
    cpu: str,
    scratch: Path,
    arguments: Sequence[str],
    *,
    snapshots: Path | None = None,
    write_bytecode: bool = False,
) -> Started:
    """Return how to start the emulated Python with `arguments`.

    The program sees only the environment made here. Its hashes are not random and one thread is all
    it has, so that it takes the same instructions each time. With `snapshots` its clock counts
    instructions (counter.c), and the readings are written there.
    """
    where = home()
    system = _system(installation, cpu, scratch)
    variables = {
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # a thread of its own that reads the clock
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(where / installation.site),
        "PYTHONPYCACHEPREFIX": str(where / installation.bytecode),
        "TMPDIR": str(scratch),
    }
    if not write_bytecode:
        variables["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [
        str(where / installation.qemu),
        *("-cpu", cpu, "-L", str(system), "-B", "0", "-U", "LD_LIBRARY_PATH"),
    ]
    if snapshots is not None:
        command += ["-plugin", f"{where / installation.plugin},out={snapshots}"]
    libraries = ":".join(str(where / folder) for folder in installation.libraries)
    return Started(
        [*command, str(system / installation.python), "-s", "-P", *arguments],
        {**variables, "LD_LIBRARY_PATH": libraries} if libraries else variables,
    )


def _system(installation: Installation, cpu: str, scratch: Path) -> Path:
    """Return the folder whose files stand in for those of this machine under the same path."""
    system, root = scratch / "system", home() / installation.root
    (system / "proc").mkdir(parents=True)
    (system / "proc" / "cpuinfo").write_text(cpuinfo(cpu), encoding="utf-8")
    seen = system / "sys" / "devices" / "system" / "cpu"
    seen.mkdir(parents=True)
    for name in ("possible", "present"):
        (seen / name).write_text(f"0-{processors() - 1}\n", encoding="utf-8")
    (system / "usr").symlink_to(root / "usr")
    # Newer packages hold their libraries under usr/ alone.
    (system / "lib").symlink_to(root / "lib" if (root / "lib").is_dir() else root / "usr" / "lib")
    return system
