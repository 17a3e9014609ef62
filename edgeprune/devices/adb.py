"""An Android device over adb: the worker under Termux, or a perf_test binary pushed there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.devices.channel import Closed
from edgeprune.devices.perf_test import PerfTestDevice
from edgeprune.devices.protocol import Device, Obstacle
from edgeprune.devices.remote import RemoteDevice, obstacle_at
from edgeprune.errors import DeviceError
from edgeprune.records import Adb, DeviceSpec

SERIAL = "ANDROID_SERIAL"  # adb's own variable
PROBE_SECONDS = 5.0
TERMUX = "in Termux: pkg install python python-numpy python-onnxruntime"
NO_DEVICE = (
    "plug it in, allow USB debugging, and see that `adb devices` lists it as `device`; "
    f"with several, set {SERIAL} or `serial` under [adb]"
)


@dataclass(frozen=True)
class AdbReach:
    """One Android device, as the section [adb] of a profile and ANDROID_SERIAL name it."""

    settings: Adb

    @property
    def serial(self) -> str | None:
        """The serial number, None where adb is to find the only device itself."""
        return self.settings.serial or os.environ.get(SERIAL) or None

    @property
    def label(self) -> str:
        """The device in messages."""
        return f"Android device {self.serial}" if self.serial else "the Android device"

    @property
    def facts(self) -> dict[str, str]:
        """The transport and the device's serial number."""
        return {"transport": "adb", "host": self.serial or "the only one"}

    @property
    def connect_seconds(self) -> float:
        """How long a connection may take."""
        return PROBE_SECONDS

    @property
    def packages(self) -> str:
        """What installs numpy and onnxruntime."""
        return TERMUX

    def adb(self, *words: str) -> list[str]:
        """Return the adb command `words` for this device."""
        return ["adb", *(["-s", self.serial] if self.serial else []), *words]

    def shell(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs `words` in the device's shell, bytes unchanged."""
        # adb, as ssh, hands one string to the shell over there; and it would look for escapes.
        return self.adb("shell", "-e", "none", "-T", shlex.join(words))

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs `words` as the app whose Python is used."""
        return self.shell(["run-as", self.settings.package, *words])

    def explain(self, closed: Closed) -> DeviceError:
        """Tell what adb, or the shell over there, said before the connection ended."""
        lines = [line for line in closed.words.splitlines() if line.strip()]
        said = lines[-1] if lines else "no message"
        if re.search("failed to (copy|stat)|does not exist|No space left", said):
            return DeviceError(f"{self.label}: {said}", "is there room, and may adb write there?")
        if any(line.startswith(("error: ", "adb: ")) for line in lines):
            return DeviceError(f"{self.label} cannot be reached: {said}", NO_DEVICE)
        if "run-as:" in closed.words:
            return DeviceError(
                f"{self.label}: no way into {self.settings.package}: {said}",
                "adb enters builds of Termux that may be debugged (those of its GitHub releases); "
                "or run sshd in Termux and use a profile with transport ssh",
            )
        if closed.code in (126, 127):
            return DeviceError(f"{self.label} has no {self.settings.python}: {said}", TERMUX)
        return DeviceError(f"{self.label} ended the connection: {said}", NO_DEVICE)

    def obstacle(self) -> Obstacle | None:
        """Return what keeps adb from reaching the device."""
        if shutil.which("adb") is None:
            return Obstacle("adb is not installed", "apt install adb")
        try:
            done = subprocess.run(
                self.adb("get-state"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Obstacle(f"adb does not answer within {PROBE_SECONDS:.0f} s", "adb kill-server")
        if done.returncode != 0 or done.stdout.strip() != "device":
            lines = (done.stderr.strip() or done.stdout.strip() or "no answer").splitlines()
            return Obstacle(f"{self.label} cannot be reached: {lines[-1]}", NO_DEVICE)
        return None


def open_adb(spec: DeviceSpec) -> Device:
    """Return the Android device that `spec` describes."""
    reach = AdbReach(spec.adb or Adb())
    if reach.settings.mode == "perf_test":
        return PerfTestDevice(spec, reach)
    return RemoteDevice(spec, reach)


def obstacle(spec: DeviceSpec) -> Obstacle | None:
    """Return what keeps the Android device from answering."""
    reach = AdbReach(spec.adb or Adb())
    found = reach.obstacle()
    if found is not None:
        return found
    if reach.settings.mode == "termux":
        return obstacle_at(spec, reach)
    binary = reach.settings.binary
    if binary is None or not Path(binary).expanduser().is_file():
        return Obstacle(
            f"there is no perf_test binary {binary or ''}".rstrip(),
            "build onnxruntime for Android; name its onnxruntime_perf_test by `binary` under [adb]",
        )
    return None
