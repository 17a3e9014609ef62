"""What runs on a device must be readable to Python 3.8, which is not there to try it with."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edgeprune.devices import agent
from edgeprune.devices.local import WORKER

GENERIC = {"dict", "list", "tuple", "set", "frozenset", "type", "Callable", "Iterator", "Sequence"}


def evaluated(node: ast.AST) -> list[ast.AST]:
    """Return what is evaluated when `node` is, without annotations (they are text here)."""
    children = [
        child
        for name, value in ast.iter_fields(node)
        if name not in ("annotation", "returns")
        for child in (value if isinstance(value, list) else [value])
        if isinstance(child, ast.AST)
    ]
    return [node, *(deeper for child in children for deeper in evaluated(child))]


@pytest.mark.parametrize("path", [WORKER, Path(agent.__file__)], ids=lambda path: path.name)
def test_programs_for_devices_keep_to_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    nodes = evaluated(tree)
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    assert any(name.name == "annotations" for n in imports for name in n.names)
    generics = [
        f"line {node.lineno}: {node.value.id}[…]"
        for node in nodes
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in GENERIC
    ]
    assert generics == []
    unions = [
        f"line {node.lineno}: … | None"
        for node in nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
        and isinstance(node.right, ast.Constant)
    ]  # fmt: skip
    assert unions == []
    called = {
        n.func.attr for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
    }
    assert not called & {"removeprefix", "removesuffix", "bit_count", "pairwise"}
    assert not any(
        keyword.arg == "strict" for n in nodes if isinstance(n, ast.Call) for keyword in n.keywords
    )
