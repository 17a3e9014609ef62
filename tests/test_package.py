"""The public face of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgeprune


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
