"""Debian packages and wheels for another architecture, fetched and unpacked without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeprune.errors import DeviceError

SOURCES = "EDGEPRUNE_APT_SOURCES"
LISTED = "packages.txt"
PLATFORMS = (
    "manylinux2014_aarch64",
    *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)),
)
SECONDS = 900.0  # for one command


def run(
    command: Sequence[str | Path],
    hint: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run `command` in this process's environment and folder or those given; return its output.

    Raises:
        DeviceError: it fails; says its last line, and `hint`.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"} if environment is None else environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{command[0]} did not finish in {SECONDS:.0f} s", hint) from None
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise DeviceError(f"{command[0]} failed: {lines[-1] if lines else 'no message'}", hint)
    return done.stdout


class Apt:
    """apt with lists and archives of its own under `folder`; the system's stay as they are.

    The sources are the system's, or those in the file that EDGEPRUNE_APT_SOURCES names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.native = run(["dpkg", "--print-architecture"], "is this Debian or Ubuntu?").strip()

    def update(self) -> None:
        """Read the lists of packages of this machine's architecture and of arm64."""
        for part in ("state/lists/partial", "native/archives/partial", "arm64/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "nothing-installed").touch()
        options = self._options("native", [self.native, "arm64"])
        run(
            ["apt-get", *options, "-qq", "update"],
            "is the network there, and arm64 in the sources?",
        )

    def fetch_native(self, package: str) -> list[Path]:
        """Fetch `package` and those of its dependencies that this machine lacks."""
        options = self._options("native", [self.native, "arm64"])
        return self._fetch("native", [*options, "--reinstall"], [package])

    def fetch_arm64(self, packages: Sequence[str]) -> list[Path]:
        """Fetch arm64 `packages` with all that they depend on."""
        options = [
            *self._options("arm64", ["arm64"]),
            *("-o", "APT::Architecture=arm64"),
            *("-o", f"Dir::State::status={self.folder / 'nothing-installed'}"),
        ]
        return self._fetch("arm64", options, packages)

    def _fetch(self, part: str, options: Sequence[str], packages: Sequence[str]) -> list[Path]:
        flags = ["-qq", "-y", "--download-only", "--no-install-recommends"]
        run(
            ["apt-get", *options, *flags, "install", *packages],
            f"other sources can be named: {SOURCES}=/path/to/sources.list",
        )
        return sorted((self.folder / part / "archives").glob("*.deb"))

    def _options(self, part: str, architectures: Sequence[str]) -> list[str]:
        settings = {
            "Dir::State": self.folder / "state",
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": self.folder / part,
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        if os.environ.get(SOURCES):
            settings["Dir::Etc::sourcelist"] = Path(os.environ[SOURCES]).absolute()
            settings["Dir::Etc::sourceparts"] = "-"
        options = [word for item in settings.items() for word in ("-o", "=".join(map(str, item)))]
        for name in architectures:
            options += ["-o", f"APT::Architectures::={name}"]
        return options


def unpack(
    archives: Sequence[Path], folder: Path, unwanted: Callable[[Path], bool] = lambda file: False
) -> None:
    """Unpack Debian packages into `folder`, which appears when it is complete."""
    unfinished = _cleared(folder)
    versions = []
    for archive in archives:
        run(["dpkg-deb", "-x", archive, unfinished], f"remove {archive} and try again")
        fields = run(["dpkg-deb", "-W", "--showformat=${Package} ${Version}", archive], "")
        versions.append(fields.strip())
    for file in [path for path in unfinished.rglob("*") if path.is_file() and unwanted(path)]:
        file.unlink()
    (unfinished / LISTED).write_text("\n".join(versions) + "\n", encoding="utf-8")
    unfinished.replace(folder)


def version_of(package: str, folder: Path) -> str:
    """Return the version of a package that was unpacked into `folder`."""
    lines = (folder / LISTED).read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines)[package]


def fetch_wheels(pinned: Sequence[str], python: str, folder: Path) -> None:
    """Fetch aarch64 wheels for CPython `python` ("3.11") and unpack them into `folder`."""
    unfinished = _cleared(folder)
    wheels = unfinished / "wheels"
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    which = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
    run(
        [*pip, "--no-deps", *which, *platforms, "-d", str(wheels), *pinned],
        "is the network there? pip reads its usual configuration",
    )
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unfinished)
    shutil.rmtree(wheels)
    unfinished.replace(folder)


def _cleared(folder: Path) -> Path:
    unfinished = folder.with_name(folder.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished
