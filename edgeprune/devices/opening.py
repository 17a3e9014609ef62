"""From a profile's name to a device that can be asked."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

from edgeprune.devices.local import LocalDevice
from edgeprune.devices.protocol import Device
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError
from edgeprune.records import DeviceSpec


def open_device(device: str) -> Device:
    """Return the device called `device` (or described by the profile file `device`).

    Raises:
        UnknownDeviceError: no such profile.
        DeviceError: it cannot be used here; says why and what would change it.
    """
    spec = load_spec(device)
    reason = unavailable(spec)
    if reason:
        raise DeviceError(f"device {spec.name} cannot be used here: {reason}", "edgeprune doctor")
    return device_for(spec)


def device_for(spec: DeviceSpec) -> Device:
    """Return the device that `spec` describes, without checking that it answers."""
    return SimulatedDevice(spec) if spec.transport == "simulated" else LocalDevice(spec)


def unavailable(spec: DeviceSpec) -> str:
    """Return why the device cannot be used here, or "" if it can."""
    if spec.transport == "simulated":
        return ""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    providers = runtime_providers()
    missing = [name for name in spec.providers if name not in providers]
    if missing:
        return f"onnxruntime here has no {', '.join(missing)} (it has {', '.join(providers)})"
    return ""


def runtime_providers() -> tuple[str, ...]:
    """Return the execution providers of the installed onnxruntime, asked in a fresh process."""
    command = [sys.executable, "-c", "import onnxruntime as o; print(*o.get_available_providers())"]
    done = subprocess.run(
        command, cwd=Path("/"), capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise DeviceError(
            f"onnxruntime does not start: {last[0]}", "reinstall it: pip install onnxruntime"
        )
    return tuple(done.stdout.split())
