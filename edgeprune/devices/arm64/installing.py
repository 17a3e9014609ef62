"""Installs the emulator for one user, without root: packages are unpacked, never configured.

Debian's packages come through apt, which checks signatures and hashes, the aarch64 wheels through
pip, the plugin from gcc. Each part appears under its name when it is complete, so that an
interrupted installation goes on where it stopped; the record is written last.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgeprune.devices.advice import command
from edgeprune.devices.arm64 import place
from edgeprune.devices.arm64.emulator import SNAPSHOTS, emulate
from edgeprune.devices.arm64.packages import Apt, fetch_wheels, run, unpack, version_of
from edgeprune.devices.arm64.place import Installation
from edgeprune.devices.local import WORKER
from edgeprune.errors import DeviceError

QEMU = "qemu-user"
GUEST = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
TOOLS = {
    "apt-get": "the emulator is made of Debian packages: use Debian or Ubuntu",
    "dpkg-deb": "the emulator is made of Debian packages: use Debian or Ubuntu",
    "gcc": "this needs root once: apt-get install gcc libc6-dev",
}
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden")
# Imports what the worker imports (so that its bytecode is kept) and tells the versions.
PROBE = """
import json, platform, runpy, sys
names = runpy.run_path("worker.py", run_name="probe")
print(json.dumps(dict(python=platform.python_version(), numpy=names["np"].__version__,
                      onnxruntime=names["ort"].__version__, machine=platform.machine())))
"""
Note = Callable[[str], None]


def install(note: Note = lambda line: None) -> Installation:
    """Install what is missing into `place.home()` and return what is there.

    Raises:
        DeviceError: a tool is missing, a download fails, or the result does not work.
    """
    home = place.home()
    found = place.installed()
    if isinstance(found, Installation):
        changed = [name for name, known in found.files.items() if _hash(home / name) != known]
        if not changed:
            note(f"already set up in {home}")
            return found
        note(f"{changed[0]} has changed: setting up anew")
        shutil.rmtree(home)
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise DeviceError(f"{missing[0]} was not found", TOOLS[missing[0]])
    home.mkdir(parents=True, exist_ok=True)
    place.record_file().unlink(missing_ok=True)
    _packages(home, note)
    python = _only(home, "root/usr/bin/python3.[0-9]*")
    pinned = {name: _version(name) for name in ("onnxruntime", "numpy")}
    site = home / "-".join(("site", *pinned.values()))
    if not site.is_dir():
        note(f"fetching onnxruntime {pinned['onnxruntime']} for aarch64")
        requirements = [f"{name}=={version}" for name, version in pinned.items()]
        fetch_wheels(requirements, python.name.removeprefix("python"), site)
    plugin = home / f"counter-{place.counter_hash()}.so"
    if not plugin.is_file():
        note("building the instruction counter")
        _build(plugin)
    installation = Installation(
        qemu=str(_only(home, "emulator/usr/bin/qemu-aarch64").relative_to(home)),
        libraries=tuple(sorted({str(f.parent.relative_to(home)) for f in _libraries(home)})),
        root="root",
        python=str(python.relative_to(home / "root")),
        site=site.name,
        plugin=plugin.name,
        bytecode="bytecode",
        counter=place.counter_hash(),
        versions={
            "qemu": version_of(QEMU, home / "emulator"),
            "libc": version_of("libc6", home / "root"),
            "libstdc++": version_of("libstdc++6", home / "root"),
        },
        files={},
    )
    note("starting the emulated onnxruntime")
    installation = _tried(home, installation, pinned)
    unfinished = place.record_file().with_suffix(".partial")
    unfinished.write_text(installation.model_dump_json(indent=1), encoding="utf-8")
    unfinished.replace(place.record_file())
    shutil.rmtree(home / "apt", ignore_errors=True)
    versions = installation.versions
    note(f"qemu {versions['qemu']}, onnxruntime {versions['onnxruntime']} for aarch64 in {home}")
    return installation


def _packages(home: Path, note: Note) -> None:
    if (home / "emulator").is_dir() and (home / "root").is_dir():
        return
    apt = Apt(home / "apt")
    note("reading the lists of packages")
    apt.update()
    if not (home / "emulator").is_dir():
        note("fetching qemu")
        unpack(apt.fetch_native(QEMU), home / "emulator", _other_qemu)
    if not (home / "root").is_dir():
        note("fetching Python for ARM64")
        unpack(apt.fetch_arm64(GUEST), home / "root")


def _other_qemu(file: Path) -> bool:
    """Whether `file` emulates another processor (together 90 MB)."""
    return file.name.startswith("qemu-") and file.name != "qemu-aarch64"


def _build(plugin: Path) -> None:
    unfinished = plugin.with_suffix(".partial")
    run(["gcc", *FLAGS, "-o", unfinished, place.COUNTER_SOURCE], "apt-get install gcc libc6-dev")
    unfinished.replace(plugin)


def _tried(home: Path, installation: Installation, pinned: dict[str, str]) -> Installation:
    """Start the emulated Python with the counter, and record what it says of itself."""
    (home / installation.bytecode).mkdir(exist_ok=True)
    hint = "QEMU 7.2 to 8.2 take this counter; to start anew, remove the folder"
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as name:
        scratch = Path(name)
        (scratch / "worker.py").symlink_to(WORKER)
        started = emulate(installation, "cortex-a76", scratch, ["-c", PROBE], write_bytecode=True)
        said = json.loads(run(started.command, hint, started.environment, scratch))
        if not (scratch / SNAPSHOTS).is_file():
            raise DeviceError("the emulator does not count: it left no snapshots", hint)
    if said.pop("machine") != "aarch64" or any(said[n] != pinned[n] for n in pinned):
        raise DeviceError(f"the emulated Python is not the expected one: {said}", hint)
    decisive = [
        home / installation.qemu,
        home / installation.plugin,
        home / installation.root / installation.python,
        *(home / installation.site / "onnxruntime" / "capi").glob("*.so"),
    ]
    return installation.model_copy(
        update={
            "versions": {**installation.versions, **said},
            "files": {str(path.relative_to(home)): _hash(path) for path in decisive},
        }
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise DeviceError(f"{package} is not installed here", command("setup")) from None


def _libraries(home: Path) -> list[Path]:
    return [path for path in (home / "emulator").rglob("*.so.*") if path.is_file()]


def _only(home: Path, pattern: str) -> Path:
    found = sorted(home.glob(pattern))
    if not found:
        raise DeviceError(f"the packages hold no {pattern}", f"remove {home} and try again")
    return found[0]


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
