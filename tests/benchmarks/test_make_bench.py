"""`make bench`: what it asks for first, and what it hands on to its programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.devices.arm64.place import Installation, counter_hash, runtime_version

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
case "$1" in
  -c) exec "{python}" "$@" ;;
  *) echo "$@" >> "{log}" ;;
esac
"""
Make = Callable[..., tuple[int, str, list[str]]]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """(words, emulator=...) -> exit code, stderr and the programs that would have been run."""
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    binaries, log = tmp_path / ".venv" / "bin", tmp_path / "log"
    binaries.mkdir(parents=True)
    python = binaries / "python"
    python.write_text(PYTHON.format(python=sys.executable, log=log))
    python.chmod(0o755)
    for name in (".installed", ".installed-microcontroller"):
        (tmp_path / ".venv" / name).touch()
    folder = tmp_path / "arm64"
    folder.mkdir()

    def call(*words: str, emulator: bool) -> tuple[int, str, list[str]]:
        if emulator:
            there = Installation(
                qemu="", libraries=(), root="", python="", site="", plugin="", bytecode="",
                counter=counter_hash(), versions={"onnxruntime": str(runtime_version())}, files={},
            )  # fmt: skip
            (folder / "installed.json").write_text(there.model_dump_json())
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        env |= {"EDGEPRUNE_ARM64": str(folder), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["make", *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        ran = log.read_text().splitlines() if log.exists() else []
        return done.returncode, done.stderr, ran

    return call


@pytest.mark.parametrize("target", ["bench", "bench-peers"])
def test_a_missing_emulator_is_told_before_anything_is_measured(make: Make, target: str) -> None:
    code, said, ran = make(target, emulator=False)
    assert code == 2
    assert "the ARM64 emulator is not set up: run make arm64" in said
    assert ran == []


def test_all_are_run_with_all_of_their_parts(make: Make) -> None:
    code, said, ran = make("bench", "PARTS=time", "KEEP=there", emulator=True)
    assert code == 0, said
    programs = [line.split()[0] for line in ran]
    assert list(dict.fromkeys(programs)) == [
        f"benchmarks/{name}.py"
        for name in (
            "solver", "prediction", "pairs", "methods", "curves", "budgets", "microcontroller", "peers",
            "measure",
        )
    ]  # fmt: skip
    assert not [line for line in ran if "--parts" in line]
    keeping = {line.split()[0] for line in ran if "--keep there" in line}
    anew = {"benchmarks/methods.py", "benchmarks/curves.py", "benchmarks/budgets.py"}
    assert {*programs} - keeping == anew
    curves = [line for line in ran if "curves.py" in line]
    assert [line.split()[-1] for line in curves] == ["mobile_cpu", "arm64_emulated"]


def test_one_alone_takes_its_parts(make: Make) -> None:
    code, said, ran = make("bench-methods", "PARTS=time gain", emulator=False)
    assert (code, ran) == (0, ["benchmarks/methods.py --parts time gain"]), said
