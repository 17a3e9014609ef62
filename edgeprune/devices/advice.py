"""Commands that set something up: those of the repository, or where that is not there, others."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgeprune.devices.spec import PACKAGE

INSTALLED = {
    "setup": "install edgeprune again: what it requires is missing",
    "arm64": "python -m edgeprune.devices.arm64",
    "webgpu": f"bash {shlex.quote(str(Path(__file__).with_name('webgpu.sh')))}",
}


def command(target: str, package: Path = PACKAGE) -> str:
    """Return what does the work of the make target `target`: "setup", "arm64" or "webgpu"."""
    return f"make {target}" if (package.parent / "Makefile").is_file() else INSTALLED[target]
