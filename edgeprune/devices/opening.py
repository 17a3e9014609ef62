"""From a profile's name to a device that can be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from edgeprune.devices import adb, local, simulated, ssh
from edgeprune.devices.arm64 import device as arm64
from edgeprune.devices.microcontroller import device as microcontroller
from edgeprune.devices.protocol import Device, Obstacle
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError
from edgeprune.records import DeviceSpec


class Transport(NamedTuple):
    """How a device is made from its profile, and what stands in its way (None: nothing)."""

    make: Callable[[DeviceSpec], Device]
    obstacle: Callable[[DeviceSpec], Obstacle | None]


TRANSPORTS: Mapping[str, Transport] = {
    "local": Transport(local.LocalDevice, local.obstacle),
    "simulated": Transport(simulated.SimulatedDevice, lambda _: None),
    "ssh": Transport(ssh.open_ssh, ssh.obstacle),
    "adb": Transport(adb.open_adb, adb.obstacle),
    "emulator": Transport(microcontroller.MicrocontrollerDevice, microcontroller.obstacle),
    "qemu_user": Transport(arm64.Arm64Device, arm64.obstacle),
}


def open_device(device: str) -> Device:
    """Return the device called `device` (or described by the profile file `device`).

    Raises:
        UnknownDeviceError: no such profile.
        DeviceError: it cannot be used here; says why and what would change it.
    """
    spec = load_spec(device)
    obstacle = obstacle_to(spec)
    if obstacle:
        raise DeviceError(f"device {spec.name} cannot be used here: {obstacle.why}", obstacle.help)
    return device_for(spec)


def obstacles_to(specs: Iterable[DeviceSpec]) -> list[Obstacle | None]:
    """Return what keeps each device from being used here; all are asked at the same time."""
    asked = list(specs)
    with ThreadPoolExecutor(max_workers=max(1, len(asked))) as pool:
        return list(pool.map(obstacle_to, asked))


def device_for(spec: DeviceSpec) -> Device:
    """Return the device that `spec` describes, without checking that it answers."""
    return TRANSPORTS[spec.transport].make(spec)


def obstacle_to(spec: DeviceSpec) -> Obstacle | None:
    """Return what keeps the device from being used here, or None."""
    return TRANSPORTS[spec.transport].obstacle(spec)
