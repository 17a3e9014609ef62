"""A real sshd on the loopback interface, with keys and a configuration of its own."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from edgeprune.devices import remote
from edgeprune.devices.connection import Connection
from edgeprune.devices.spec import load_spec
from edgeprune.records import DeviceSpec
from tests.running import command

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")

PROFILE = """\
title = "a host on the loopback interface"
kind = "cpu"
runtime = "onnxruntime"
transport = "ssh"
unit = "us"
figure = "measured"
[ssh]
"""

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/authorized_keys"
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
{more}
"""

CLIENT = """\
Host board
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile "{folder}/user_key"
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile "{folder}/known_hosts"
  GlobalKnownHostsFile /dev/null
"""


@dataclass
class Sshd:
    """A running server; `folder` holds its keys and the client's, `scratch` what edgeprune stores."""

    folder: Path
    port: int
    scratch: Path
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.folder / "config"

    def profile(self, **keys: object) -> Path:
        """Write a device profile for this server and return its path."""
        settings = {
            "host": "board",
            "config": str(self.config),
            "python": sys.executable,
            "folder": str(self.scratch),
            **keys,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if value]
        path = self.folder / "loopback.toml"
        path.write_text(PROFILE + "\n".join(lines) + "\n")
        return path

    def spec(self, **keys: object) -> DeviceSpec:
        """Return the profile for this server."""
        return load_spec(str(self.profile(**keys)))

    def trust(self, name: str = "host_key") -> None:
        """Let the client know a host key."""
        kind, key, *_ = (self.folder / f"{name}.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def new_key(self, name: str) -> None:
        """Make a key pair."""
        path = self.folder / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)],
            stdin=subprocess.DEVNULL,
            check=True,
        )

    def cut(self) -> None:
        """End server and sessions at once, as when a cable is pulled; what they run lives on."""
        sessions = [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if "".join(command(process)[:1]).rpartition("/")[2].startswith("sshd")
        ]
        for process in (psutil.Process(self.process.pid), *sessions):
            with contextlib.suppress(psutil.NoSuchProcess):  # a session may end by itself
                process.kill()

    def left(self) -> list[str]:
        """Return what is left on the "device": files in the scratch folder, processes that use it."""
        found = [str(path) for path in self.scratch.iterdir()]
        for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
            words = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
            ours = process.info["pid"] in (os.getpid(), self.process.pid)
            if not ours and any(str(self.scratch) in word for word in words):
                found.append(" ".join(words))
        return found

    def wait_until_clean(self, seconds: float = 10.0) -> None:
        """Wait until nothing is left; fail with a list of what is."""
        until = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < until:
            time.sleep(0.05)
        assert left == []


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Start servers: `start_sshd("ForceCommand …")` adds to the server's configuration."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("NOT TESTED: ssh needs a server: apt-get install -y openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it
    started: list[Sshd] = []

    def start(more: str = "") -> Sshd:
        folder = tmp_path / f"sshd {len(started)}"
        folder.mkdir()
        scratch = folder / 'it\'s a "scratch" $(exit 1) folder'
        scratch.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        server = Sshd(folder, port, scratch, None)
        for name in ("host_key", "user_key"):
            server.new_key(name)
        (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
        (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder, more=more))
        server.config.write_text(CLIENT.format(port=port, folder=folder, user=getpass.getuser()))
        server.trust()
        with (folder / "log").open("wb") as log:
            server.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        started.append(server)
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return server
            except OSError:
                if server.process.poll() is not None or time.monotonic() > until:
                    pytest.fail("sshd does not start: " + (folder / "log").read_text())
                time.sleep(0.02)

    yield start
    for server in started:
        server.process.terminate()
        server.process.wait(10)


@pytest.fixture
def sshd(start_sshd: Callable[..., Sshd]) -> Sshd:
    """A server that the client knows and may enter."""
    return start_sshd()


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """The names of the files that go to the device."""
    names: list[str] = []
    put = Connection.put

    def recorded(self: Connection, name: str, content: bytes | Path) -> None:
        names.append(name)
        put(self, name, content)

    monkeypatch.setattr(Connection, "put", recorded)
    return names


@pytest.fixture
def worker(tmp_path: Path, monkeypatch) -> Callable[[str], None]:
    """Put a program in the place of the worker."""

    def replace(program: str) -> None:
        (tmp_path / "other_worker.py").write_text(program)
        monkeypatch.setattr(remote, "WORKER", tmp_path / "other_worker.py")

    return replace
