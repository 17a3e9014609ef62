"""The compiler of the firmware: zig from the package ziglang, or arm-none-eabi-gcc."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from edgeprune.devices.microcontroller.cache import (
    cache_folder,
    content_key,
    keep,
    weekly_folder,
)
from edgeprune.devices.processes import run
from edgeprune.devices.protocol import Obstacle
from edgeprune.errors import DeadlineError, DeviceError
from edgeprune.export.cmsis_nn import EXTRA
from edgeprune.records import Microcontroller

PACKAGE = Path(__file__).resolve().parent.parent.parent
SECONDS = 300.0  # a compilation that takes longer hangs
ZIG_CORES = {
    ("cortex-m4", "single"): "cortex_m4+vfp4d16sp",
    ("cortex-m7", "single"): "cortex_m7+fp_armv8d16sp-fp64",
    ("cortex-m7", "double"): "cortex_m7+fp_armv8d16",
    ("cortex-m33", "single"): "cortex_m33+dsp+fp_armv8d16sp",
    ("cortex-m55", "double"): "cortex_m55+fp_armv8d16+mve_fp",
}
GCC_UNITS = {
    ("cortex-m4", "single"): ("-mfpu=fpv4-sp-d16",),
    ("cortex-m7", "single"): ("-mfpu=fpv5-sp-d16",),
    ("cortex-m7", "double"): ("-mfpu=fpv5-d16",),
    ("cortex-m33", "single"): ("-mfpu=fpv5-sp-d16",),
    ("cortex-m55", "double"): (),
}
COMMON = (
    "-ffunction-sections", "-fdata-sections", "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
)  # fmt: skip


class Toolchain(NamedTuple):
    """A compiler and what it is always given.

    `version` and `flags` are what figures depend on. `bare` tells that it brings neither a C
    library nor its headers.
    """

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    bare: bool

    @property
    def identity(self) -> str:
        """Compiler, version and flags in one line."""
        return f"{self.version} {' '.join(self.flags)}"


def harness_folder() -> Path:
    """Return the folder of the harness: the installed package's, else the checkout's."""
    installed = PACKAGE / "_harness"
    return installed if installed.is_dir() else PACKAGE.parent / "deploy" / "microcontroller"


def toolchain(chip: Microcontroller) -> Toolchain:
    """Return the compiler for `chip`.

    Raises:
        DeviceError: it is not installed, or does not know the core with this floating point.
    """
    name = _choice(chip)
    if name is None:
        missing = compiler_obstacle(chip)
        raise DeviceError(missing.why if missing else "no compiler", EXTRA)
    core = (chip.cpu, chip.fpu)
    if core not in ZIG_CORES:
        raise DeviceError(
            f"{chip.cpu} has no {chip.fpu}-precision floating point", "[microcontroller] fpu"
        )
    optimization = f"-{chip.optimization}"
    if name == "zig":
        flags = ("-target", "thumb-freestanding-eabihf", f"-mcpu={ZIG_CORES[core]}", optimization)
        # zig takes -Os without debug information for an order to drop the symbols.
        symbols = "-g1" if chip.optimization == "Os" else "-g0"
        bare = ("-ffreestanding", "-fno-sanitize=all", symbols)
        version = f"zig {importlib.metadata.version('ziglang')}"
        return Toolchain((_zig() or "", "cc"), version, (*flags, *bare, *COMMON), True)
    flags = (f"-mcpu={chip.cpu}", "-mthumb", "-mfloat-abi=hard", optimization)
    # Functions of the same content would be merged into one, and the counts of their layers too.
    apart = (*GCC_UNITS[core], "-fno-ipa-icf", "-g0")
    return Toolchain((_gcc() or "",), _gcc_version(), (*flags, *apart, *COMMON), False)


def compiler_obstacle(chip: Microcontroller) -> Obstacle | None:
    """Return why there is no compiler for `chip`, or None."""
    if _choice(chip) is not None:
        return None
    if chip.compiler == "gcc":
        return Obstacle(
            "arm-none-eabi-gcc is not installed",
            "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
        )
    return Obstacle("the compiler zig is not installed", EXTRA)


def run_compiler(command: tuple[str, ...], folder: Path) -> str:
    """Run a compiler in `folder`; return what it complained of, empty if it succeeded.

    Raises:
        DeadlineError: it hangs.
    """
    environment = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(cache_folder("zig")),  # its own runtime
        "ZIG_LOCAL_CACHE_DIR": str(weekly_folder("objects")),  # objects of models
        "LC_ALL": "C",
    }
    try:
        done = run(command, folder, SECONDS, environment)
    except subprocess.TimeoutExpired:
        raise DeadlineError(f"{command[0]} did not finish within {SECONDS:.0f} s") from None
    return "" if done.code == 0 else done.stderr.strip() or done.last_line


def host_library(source: str, *defines: str) -> Path:
    """Return a shared library for this machine, built from `source` of the harness.

    Raises:
        DeviceError: there is no compiler, or it fails.
    """
    folder = harness_folder()
    compiler = shutil.which("cc") or shutil.which("gcc")
    command = (compiler,) if compiler else (_zig() or "", "cc")
    if not command[0]:
        raise DeviceError("no C compiler for this machine", EXTRA)
    texts = [(folder / name).read_bytes() for name in (source, "counter.h")]
    key = content_key([*texts, *command, *defines])
    place = cache_folder("host") / f"{Path(source).stem}-{key}.so"
    if not place.exists():
        flags = ("-O2", "-shared", "-fPIC", "-fvisibility=default", *defines)
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            made = Path(scratch, "library.so")
            fault = run_compiler((*command, *flags, str(folder / source), "-o", str(made)), folder)
            if fault:
                raise DeviceError(
                    f"{source} does not compile: {fault.splitlines()[0]}", "edgeprune doctor"
                )
            keep(made, place)
    return place


def host_compiler() -> bool:
    """Whether this machine can compile for itself."""
    return bool(shutil.which("cc") or shutil.which("gcc") or _zig())


def _choice(chip: Microcontroller) -> str | None:
    offered = ("zig", "gcc") if chip.compiler == "any" else (chip.compiler,)
    found = {"zig": _zig(), "gcc": _gcc()}
    return next((name for name in offered if found[name]), None)


def _zig() -> str | None:
    spec = importlib.util.find_spec("ziglang")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return str(Path(folders[0], "zig")) if folders else None


def _gcc() -> str | None:
    return shutil.which("arm-none-eabi-gcc")


@cache
def _gcc_version() -> str:
    done = subprocess.run(
        [_gcc() or "arm-none-eabi-gcc", "-dumpfullversion"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return f"arm-none-eabi-gcc {done.stdout.strip()}"
