"""Random networks and budgets of benchmarks/pairs.py."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "pairs.py"


@pytest.fixture(scope="module")
def program():
    return runpy.run_path(str(PATH), run_name="pairs")


def test_networks_of_all_kinds_are_drawn_alike_each_time_and_run(program) -> None:
    kinds, budgets = set(), set()
    for seed in range(20):
        kind, model, shape, share = program["drawn"](seed)
        again = program["drawn"](seed)
        assert (kind, shape, share) == (again[0], *again[2:])
        state = again[1].state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert model(torch.randn(shape)).shape == (1, 10)
        assert 0.25 <= share <= 0.8
        kinds.add(kind)
        budgets.add(share)
    assert kinds == {"plain", "residual", "separable"}
    assert len(budgets) == 20


def test_pairs_are_kept_and_told(program, tmp_path: Path, monkeypatch, capsys) -> None:
    keep = tmp_path / "pairs.json"
    monkeypatch.setattr(
        sys, "argv", ["pairs.py", "--keep", str(keep), "--count", "1", "--device", "simulated"]
    )
    program["main"]()
    first = capsys.readouterr().out
    assert "1 of 1 inside [97 %, 100 %], 0 more say what holds them, 0 slower than dense" in first
    row = json.loads(keep.read_text())["simulated/0"]
    assert 0.97 <= row["used"] <= 1.0
    keep.write_text(json.dumps({"simulated/0": {**row, "used": 0.5, "held_by": ["stem"]}}))
    program["main"]()  # what is kept is not measured again
    told = capsys.readouterr().out
    assert "held by stem" in told
    assert "0 of 1 inside [97 %, 100 %], 1 more say what holds them" in told
