"""A host over ssh, by the user's own client, configuration and keys."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from edgeprune.devices.channel import Closed
from edgeprune.devices.protocol import Device, Obstacle
from edgeprune.devices.remote import RemoteDevice, obstacle_at
from edgeprune.errors import DeviceError, UsageError
from edgeprune.records import DeviceSpec, Ssh

HOST = "EDGEPRUNE_SSH_HOST"
PROBE_SECONDS = 5.0
FAILED = 255  # ssh's own failures; every other code is that of the command
# Trust is the user's affair: unknown host keys are refused and passwords never asked for. What a
# configuration may add to people's sessions (forwarding, another command) is left out of ours.
OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "4",
    "ClearAllForwardings": "yes",
    "ControlMaster": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
}


@dataclass(frozen=True)
class SshReach:
    """One host, as the section [ssh] of a profile names it."""

    settings: Ssh
    host: str

    @property
    def label(self) -> str:
        """The host in messages."""
        return f"host {self.host}"

    @property
    def facts(self) -> dict[str, str]:
        """The transport and the host's name."""
        return {"transport": "ssh", "host": self.host}

    @property
    def connect_seconds(self) -> float:
        """How long a connection may take."""
        return self.settings.connect_timeout_seconds

    @property
    def packages(self) -> str:
        """The command that installs numpy and onnxruntime on the host."""
        python = shlex.join([self.settings.python, "-m", "pip", "install", "numpy", "onnxruntime"])
        return shlex.join([*self._client(), self.host, python])

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the ssh command that runs `words` on the host."""
        options = {**OPTIONS, "ConnectTimeout": str(int(self.connect_seconds))}
        flags = [f"-o{key}={value}" for key, value in options.items()]
        # ssh hands one string to the shell over there, which starts in the home folder.
        program = words[0].removeprefix("~/")
        return [*self._client(), "-Tax", *flags, "--", self.host, shlex.join([program, *words[1:]])]

    def explain(self, closed: Closed) -> DeviceError:
        """Tell what ssh, or the shell over there, said before the connection ended."""
        words, said = closed.words, _last(closed.words)
        by_hand = shlex.join([*self._client(), self.host, "true"])
        if closed.code == 127:
            return DeviceError(
                f"{self.label} has no {self.settings.python}: {said}",
                "install Python there, or name it with `python` under [ssh]",
            )
        if closed.code != FAILED:
            return DeviceError(f"{self.label} ended the connection: {said}", f"try {by_hand}")
        if "IDENTIFICATION HAS CHANGED" in words:
            return DeviceError(
                f"{self.label}: its host key has changed; another machine may answer in its place",
                "find out why first; if the host was set up anew: "
                + shlex.join(["ssh-keygen", "-R", self.host]),
            )
        if "Host key verification failed" in words:
            return DeviceError(
                f"{self.label}: its host key is not known: {_first(words)}",
                f"compare its fingerprint and accept it once: {by_hand}",
            )
        if "Permission denied" in words or "Too many authentication failures" in words:
            return DeviceError(
                f"{self.label} lets nobody in without asking: {said}",
                f"ssh-copy-id, or ssh-add your key; {by_hand} must work without a question",
            )
        return DeviceError(f"{self.label} cannot be reached: {said}", f"try {by_hand}")

    def _client(self) -> list[str]:
        config = self.settings.config
        return ["ssh", "-F", str(Path(config).expanduser())] if config else ["ssh"]


def open_ssh(spec: DeviceSpec) -> Device:
    """Return the host that `spec` describes.

    Raises:
        DeviceError: no host is named.
    """
    reach = _reach(spec)
    if reach is None:
        raise DeviceError(f"device {spec.name}: no host is named", _naming(spec))
    return RemoteDevice(spec, reach)


def obstacle(spec: DeviceSpec) -> Obstacle | None:
    """Return what keeps the host from answering: no client, no host, no way in, no runtime."""
    reach = _reach(spec)
    if reach is None:
        return Obstacle("no host is named", _naming(spec))
    if shutil.which("ssh") is None:
        return Obstacle("ssh is not installed", "apt install openssh-client")
    seconds = min(PROBE_SECONDS, reach.connect_seconds)
    settings = reach.settings.model_copy(update={"connect_timeout_seconds": seconds})
    return obstacle_at(spec, SshReach(settings, reach.host))


def _reach(spec: DeviceSpec) -> SshReach | None:
    settings = spec.ssh or Ssh()
    given = os.environ.get(HOST)
    if given:
        try:
            settings = Ssh.model_validate({**settings.model_dump(), "host": given})
        except ValidationError:
            raise UsageError(f"{HOST}={given!r} is not the name of a host") from None
    return SshReach(settings, settings.host) if settings.host else None


def _naming(spec: DeviceSpec) -> str:
    return f"{HOST}=user@host, or `host` under [ssh] in a copy of {spec.name}.toml"


def _last(words: str) -> str:
    lines = [line for line in words.splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[-1]) if lines else "no message"


def _first(words: str) -> str:
    return next((line for line in words.splitlines() if line.strip()), "no message")
