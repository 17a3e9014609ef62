"""Where `make arm64` puts the emulator, and whether what is there can be used."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from pathlib import Path

from pydantic import ValidationError

from edgeprune.devices.advice import command
from edgeprune.devices.protocol import Obstacle
from edgeprune.faults import every_key
from edgeprune.records import DeviceSpec, Record

COUNTER_SOURCE = Path(__file__).resolve().parent / "counter.c"


class Installation(Record):
    """What was installed; paths are relative to `home()`.

    `versions` are those of qemu, python, numpy, onnxruntime, libc and libstdc++ in use, `counter`
    is the hash of the plugin's source, `files` the SHA-256 of the files that decide the counts.
    """

    qemu: str
    libraries: tuple[str, ...]
    root: str
    python: str
    site: str
    plugin: str
    bytecode: str
    counter: str
    versions: dict[str, str]
    files: dict[str, str]


def home() -> Path:
    """Return the folder of the installation: EDGEPRUNE_ARM64, or in the user's cache."""
    named = os.environ.get("EDGEPRUNE_ARM64")
    if named:
        return Path(named).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "edgeprune" / "arm64"


def record_file() -> Path:
    """Return the file that is written last, when all else is in place."""
    return home() / "installed.json"


def counter_hash() -> str:
    """Return what identifies the counting plugin: the hash of its source, shortened."""
    return hashlib.sha256(COUNTER_SOURCE.read_bytes()).hexdigest()[:12]


def runtime_version() -> str | None:
    """Return the version of onnxruntime here; the emulated one has to be the same."""
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return None


def installed() -> Installation | Obstacle:
    """Return the installation, or why it cannot be used."""
    try:
        found = Installation.model_validate_json(record_file().read_bytes())
    except FileNotFoundError:
        return Obstacle("the ARM64 emulator is not set up", command("arm64"))
    except (OSError, ValidationError):
        return Obstacle(f"{record_file()} cannot be read", command("arm64"))
    gone = [name for name in found.files if not (home() / name).is_file()]
    if gone:
        return Obstacle(f"{home() / gone[0]} is gone", command("arm64"))
    if found.counter != counter_hash():
        return Obstacle("the instruction counter was built from another version", command("arm64"))
    if found.versions["onnxruntime"] != runtime_version():
        return Obstacle(
            f"onnxruntime {found.versions['onnxruntime']} is set up for ARM64, "
            f"{runtime_version()} is installed here",
            command("arm64"),
        )
    return found


def usable(spec: DeviceSpec) -> tuple[Installation, str] | Obstacle:
    """Return the installation and the processor that `spec` asks for, or why it cannot be had."""
    if spec.arm64 is None:
        return Obstacle("its profile has no section [arm64]", every_key("devices.md"))
    if spec.threads != 1:
        return Obstacle("instructions are counted on one thread only", "threads = 1 in the profile")
    found = installed()
    return found if isinstance(found, Obstacle) else (found, spec.arm64.cpu)


def obstacle(spec: DeviceSpec) -> Obstacle | None:
    """Return what keeps the device that `spec` describes from being emulated here."""
    found = usable(spec)
    return found if isinstance(found, Obstacle) else None
