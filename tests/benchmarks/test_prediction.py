"""What benchmarks/prediction.py keeps is not taken for that of another network or device."""

from __future__ import annotations

import itertools
import runpy
import sys
from pathlib import Path

import pytest
from torch import nn

from edgeprune.errors import UnstableError, UsageError
from tests import factories

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "prediction.py"
WIDTHS = {"0": (4, 8), "2": (8, 16)}


@pytest.fixture(scope="module")
def program():
    return runpy.run_path(str(PATH), run_name="prediction")


@pytest.fixture
def kept(tmp_path: Path, program, monkeypatch):
    """Layers of another network -> the table kept in a folder, read for that network."""
    table = factories.a_table(widths=WIDTHS, device="mobile_cpu")
    (tmp_path / "table.json").write_text(table.model_dump_json())

    def read(device: str = "mobile_cpu", widths: tuple[int, ...] = (8, 16)):
        layers = [nn.Conv2d(3, widths[0], 1), nn.ReLU()]
        layers += [nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(widths)]
        network = {"network": lambda _: (nn.Sequential(*layers), ())}
        monkeypatch.setitem(program["kept_table"].__globals__, "network", network["network"])
        return program["kept_table"](tmp_path, "fashion", device)

    return read


def test_what_is_of_this_network_and_device_is_taken(kept) -> None:
    assert kept().widths == WIDTHS


def test_what_is_of_another_is_refused_and_every_difference_told(kept) -> None:
    with pytest.raises(UsageError) as caught:
        kept("raspberry_pi_5", (8, 24))
    assert "of device mobile_cpu, not raspberry_pi_5" in caught.value.what
    assert "2 has 16 channels there, 24 in fashion" in caught.value.what
    assert "0 has" not in caught.value.what
    assert caught.value.hint == "name another folder: --keep FOLDER"
    with pytest.raises(UsageError, match="2 has 16 channels there, no in fashion"):
        kept(widths=(8,))


def test_without_a_table_the_part_that_makes_it_is_named(program, tmp_path, monkeypatch) -> None:
    words = ["prediction.py", "report", "--keep", str(tmp_path), "--device", "simulated"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UsageError, match="fashion-simulated holds no cost table") as caught:
        program["main"]()
    assert "`price`" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bursts", [2, 3])
def test_a_plan_that_does_not_settle_is_measured_again_twice(
    program, tmp_path, monkeypatch, capsys, bursts: int
) -> None:
    calls = []

    def compare(device, dense, path, **_):
        calls.append((device, dense, path))
        if len(calls) <= bursts:
            raise UnstableError("only known to 20 %", "close other programs")
        return "ratio", "environment"

    monkeypatch.setitem(program["_compared"].__globals__, "compare", compare)
    words = "device", tmp_path / "dense.onnx", tmp_path / "plan3.onnx"
    if bursts == 3:
        with pytest.raises(UnstableError):
            program["_compared"](*words)
    else:
        assert program["_compared"](*words) == ("ratio", "environment")
    assert calls == [words] * 3
    assert capsys.readouterr().out.count("plan3 is measured again: only known to 20 %") == 2
