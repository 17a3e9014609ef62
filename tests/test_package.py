"""The public face of the package."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgeprune
from edgeprune.devices.local import RUNTIME

ROOT = Path(__file__).resolve().parents[1]


def test_public_names_are_sorted_and_exist() -> None:
    assert edgeprune.__all__ == sorted(edgeprune.__all__)
    assert set(edgeprune.__all__) == {
        "Data",
        "EdgepruneError",
        "Result",
        "Verdict",
        "WidthPlan",
        "slim",
    }
    for name in edgeprune.__all__:
        assert getattr(edgeprune, name) is not None
        assert name in dir(edgeprune)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = edgeprune.nothing_here


def test_importing_the_package_or_the_command_line_stays_light() -> None:
    script = (
        "import sys, edgeprune.cli\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'torch_pruning', 'highspy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_what_messages_tell_to_install_is_what_the_project_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert RUNTIME in project["dependencies"]
    known = {f"edgeprune[{name}]" for name in extras} | {p for ps in extras.values() for p in ps}
    told = {
        (path.name, package)
        for pattern in ("*.py", "*.j2")
        for path in (ROOT / "edgeprune").rglob(pattern)
        for package in re.findall(r"pip install ['\"]?([^'\"`\s]+)", path.read_text())
    }
    assert {name for name, _ in told} >= {"cmsis_nn.py", "README.md.j2"}
    assert {package for _, package in told} <= known, told
