"""The table of methods: complete, light to import, and a row of the documentation each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from edgeprune.cli import execute
from edgeprune.methods import METHODS, MethodKind, listing, names, unknown

NAMED = {
    "importance": "random l1 l2 variance bn_scale lamp fpgm activation apoz gradient taylor fisher snip grasp synflow hessian fused",
    "fusion": "simple adaptive learned",
    "allocation": "uniform global isomorphic layer_adaptive retention adaptive_alpha hardware_penalty netadapt halp exact evolutionary annealing",
    "schedule": "one_shot iterative progressive lottery",
    "regularisation": "group_norm bn_scale growing",
    "recovery": "batchnorm reconstruction finetuning distillation",
    "normalisation": "none sum mean max l2 minmax gaussian lamp rank",
    "mask": "l1 random ln_structured global iterative",
    "transform": "linear_collapse input_adaptive data_holders",
}


def test_every_method_is_listed_with_kind_and_status() -> None:
    rows = {(row["kind"], row["name"]): row for row in listing()}
    assert len(rows) == len(METHODS)
    for kind, methods in NAMED.items():
        for name in methods.split():
            row = rows[kind, name]
            assert row["status"] in ("available", "planned")
            assert row["summary"]
    assert rows["importance", "fisher"]["status"] == "available"


def test_every_available_method_has_a_row_in_the_documentation() -> None:
    text = Path(__file__).parents[1].joinpath("docs", "methods.md").read_text(encoding="utf-8")
    for kind in get_args(MethodKind):
        for name in names(kind):
            assert f"| `{name}` |" in text, (kind, name)


def test_unknown_names() -> None:
    assert unknown("fusion", "best") == "no fusion 'best' (known: simple, adaptive, learned)"
    assert "did you mean 'hessian'?" in unknown("importance", "hesian")
    for method in METHODS:
        if not method.available:
            assert "is planned, not available yet" in unknown(method.kind, method.name)


def test_the_table_does_not_load_torch() -> None:
    code = "import sys, edgeprune.job; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("option", "documents"), [((), 0), (("--json",), 1)])
def test_the_screen_goes_to_stderr_and_one_document_to_stdout_if_asked_for(
    option: tuple[str, ...], documents: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert execute(["methods", *option]) == 0
    out, err = capfd.readouterr()
    assert "taylor" in err
    assert len(out.splitlines()) == documents
    assert all(json.loads(line)["methods"] == listing() for line in out.splitlines())
