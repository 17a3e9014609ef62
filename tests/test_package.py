"""The public face of the package."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgeprune
from edgeprune.devices.local import RUNTIME
from edgeprune.faults import every_key

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


def texts(tree: ast.AST) -> set[str]:
    """Return the strings of a module that are no docstrings."""
    strings = {id(node): node for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            strings.pop(id(node.value), None)
    return {node.value for node in strings.values() if isinstance(node.value, str)}


def test_pages_that_messages_name_come_with_the_package() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "edgeprune").rglob("*.py")]
    bare = {text for source in sources for text in texts(ast.parse(source)) if "docs/" in text}
    assert not bare, "not every user has docs/: name a page by every_key"
    pages = {name for source in sources for name in re.findall(r'every_key\("(.+?)"\)', source)}
    assert pages == {"devices.md", "jobs.md"}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for name in pages:
        assert (ROOT / "docs" / name).is_file()
        assert f"/docs/{name}" in wheel["targets"]["wheel"]["include"]
    assert wheel["targets"]["wheel"]["sources"]["docs"] == "edgeprune/_docs"


def test_a_hint_names_the_page_where_it_is(tmp_path: Path) -> None:
    assert every_key("jobs.md") == f"{ROOT / 'docs' / 'jobs.md'} lists every key"
    (tmp_path / "_docs").mkdir()
    assert every_key("jobs.md", tmp_path) == f"{tmp_path / '_docs' / 'jobs.md'} lists every key"


PROGRAMS = sorted(p for folder in ("benchmarks", "examples") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_benchmarks_and_examples_import_from_the_package_is_there(program: Path) -> None:
    """Most of them run for too long to be run by tests, so that a name that went would not show."""
    tree = ast.parse(program.read_text(encoding="utf-8"))
    taken = [
        (node.module, name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edgeprune"
        for name in node.names
    ]
    missing = []
    for module, name in taken:
        try:
            found = hasattr(importlib.import_module(module), name)
            found = found or bool(importlib.import_module(f"{module}.{name}"))
        except ImportError:
            found = False
        if not found:
            missing.append(f"{module}.{name}")
    assert missing == []
