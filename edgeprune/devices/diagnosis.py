"""What this machine can do for edgeprune, and what would help."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import psutil

from edgeprune.devices import gpu
from edgeprune.devices.advice import command
from edgeprune.devices.arm64 import place
from edgeprune.devices.local import runtime_providers
from edgeprune.devices.microcontroller import device as microcontroller
from edgeprune.devices.protocol import Obstacle
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError


class Check(NamedTuple):
    """One thing looked at: whether it is well, what was found, what would help."""

    what: str
    ok: bool
    found: str
    help: str
    needed: bool


def diagnose() -> list[Check]:
    """Return all checks of this machine."""
    checks = [
        _python(),
        *(_package(n) for n in ("torch", "torch-pruning", "onnx", "onnxruntime", "highspy")),
    ]
    checks += [
        _provider(),
        _processors(),
        _load(),
        _governor(),
        _memory(),
        _scratch(),
        _tool("make"),
        _tool("ssh", "apt install openssh-client; for boards over ssh"),
        _tool("adb", "apt install adb; for Android devices"),
        _firmware("cortex_m4"),
        _firmware("cortex_m55"),
        _arm64(),
        _gpu("edge_gpu", f"name the python of a GPU build of onnxruntime in {gpu.PYTHON}"),
        _gpu("webgpu_software", command("webgpu")),
    ]
    return checks


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, platform.python_version(), "install Python 3.11 or later", True)


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name), "", True)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", command("setup"), True)


def _provider() -> Check:
    try:
        providers = runtime_providers()
    except DeviceError as error:
        return Check("onnxruntime starts", False, error.what, command("setup"), True)
    return Check("execution providers", True, ", ".join(providers), "", True)


def _gpu(name: str, helps: str) -> Check:
    """Tell which execution provider answers for a GPU profile, and what keeps the others."""
    found = gpu.find(load_spec(name))
    if found.device is None:
        return Check(name, False, f"no GPU answers: {found.why}", helps, False)
    names = (found.device.spec.providers[0], found.device.adapter or "")
    return Check(name, True, " on ".join(filter(None, names)), "", False)


def _processors() -> Check:
    count = len(os.sched_getaffinity(0))
    return Check(
        "processors",
        count >= 2,
        str(count),
        "with one, edgeprune itself disturbs what it measures",
        False,
    )


def _load() -> Check:
    load, count = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return Check(
        "load",
        load < 0.5 * count,
        f"{load:.2f} over the last minute",
        "close other programs before measuring",
        False,
    )


def _governor() -> Check:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        found = path.read_text(encoding="utf-8").strip()
    except OSError:
        return Check("frequency governor", True, "not visible here", "", False)
    return Check(
        "frequency governor",
        found == "performance",
        found,
        "cpupower frequency-set -g performance",
        False,
    )


def _memory() -> Check:
    free = psutil.virtual_memory().available / 2**30
    return Check("memory", free >= 2, f"{free:.1f} GiB available", "close other programs", False)


def _scratch() -> Check:
    free = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    return Check(
        "scratch space",
        free >= 1,
        f"{free:.1f} GiB in {tempfile.gettempdir()}",
        "set TMPDIR to a larger disk",
        True,
    )


def _firmware(device: str) -> Check:
    what = f"firmware for {device}"
    spec = load_spec(device)
    found = microcontroller.obstacle(spec)
    if found:
        return Check(what, False, found.why, found.help, False)
    return Check(what, True, microcontroller.tools_of(spec), "", False)


def _tool(name: str, help_: str = "") -> Check:
    found = shutil.which(name)
    return Check(name, found is not None, found or "not found", help_ or f"install {name}", False)


def _arm64() -> Check:
    found = place.installed()
    if isinstance(found, Obstacle):
        return Check("ARM64 emulator", False, found.why, found.help, False)
    versions = found.versions
    text = f"qemu {versions['qemu']}, onnxruntime {versions['onnxruntime']} for aarch64"
    return Check("ARM64 emulator", True, text, "", False)
