"""From a profile's name to a device that can be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from edgeprune.devices import adb, gpu, local, roofline, simulated, ssh
from edgeprune.devices.arm64 import device as arm64
from edgeprune.devices.microcontroller import device as microcontroller
from edgeprune.devices.protocol import Device, Obstacle
from edgeprune.devices.spec import known_devices, load_spec
from edgeprune.errors import DeviceError
from edgeprune.records import DeviceSpec


class Transport(NamedTuple):
    """How a device is made from its profile, and what stands in its way (None: nothing).

    `stand_in` returns the profile of what answers here in a device's name.
    """

    make: Callable[[DeviceSpec], Device]
    obstacle: Callable[[DeviceSpec], Obstacle | None]
    stand_in: Callable[[DeviceSpec], DeviceSpec] = lambda spec: spec


TRANSPORTS: Mapping[str, Transport] = {
    "gpu": Transport(gpu.make, gpu.obstacle, gpu.stand_in),
    "local": Transport(local.LocalDevice, local.obstacle),
    "roofline": Transport(roofline.RooflineDevice, lambda _: None),
    "simulated": Transport(simulated.SimulatedDevice, lambda _: None),
    "ssh": Transport(ssh.open_ssh, ssh.obstacle),
    "adb": Transport(adb.open_adb, adb.obstacle),
    "emulator": Transport(microcontroller.MicrocontrollerDevice, microcontroller.obstacle),
    "qemu_user": Transport(arm64.Arm64Device, arm64.obstacle),
}


def open_device(device: str, warn: Callable[[str], None] = lambda _: None) -> Device:
    """Return the device called `device` (or described by the profile file `device`).

    `warn` is told what whoever reads its figures must know, if anything.

    Raises:
        UnknownDeviceError: no such profile.
        DeviceError: it cannot be used here; says why and what would change it.
    """
    spec = load_spec(device)
    obstacle = obstacle_to(spec)
    if obstacle:
        raise DeviceError(f"device {spec.name} cannot be used here: {obstacle.why}", obstacle.help)
    opened = device_for(spec)
    if opened.spec.note:
        warn(opened.spec.note)
    return opened


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


def stand_in(spec: DeviceSpec) -> DeviceSpec:
    """Return the profile of what answers here in the name of `spec`: mostly `spec` itself."""
    return TRANSPORTS[spec.transport].stand_in(spec)


def roster() -> list[tuple[DeviceSpec, Obstacle | None]]:
    """Return all shipped profiles, or what stands in for them, and what keeps them from use."""
    specs = [load_spec(name) for name in known_devices()]
    return list(zip(map(stand_in, specs), obstacles_to(specs), strict=True))
